_base_ = ['./icd_res20_res8_digits.py']
model = dict(distiller=dict(kd=dict(type='KLDivergence', tau=4.0)))
