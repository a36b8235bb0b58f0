# ICD: Invariant Consistency Distillation (arXiv 2407.11802)
icd = dict(_scope_='mmrazor', type='ICDDistiller')
