# ICD: Invariant Consistency Distillation (arXiv 2407.11802), which its authors now call DCD
icd = dict(_scope_='mmrazor', type='ICDDistiller')
