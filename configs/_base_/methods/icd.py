# ICD: Invariant Consistency Distillation (arXiv 2407.11802)
icd = dict(type='ICDDistiller')
