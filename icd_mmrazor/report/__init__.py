"""The report of a distillation: one page of HTML to send around."""
