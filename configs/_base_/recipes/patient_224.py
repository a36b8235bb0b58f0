# 224 x 224, 300 epochs of LAMB, every batch mixed: for a student that should get all that the teacher can give.
_base_ = ['mixed_224.py']
train_cfg = dict(max_epochs=300)
data_preprocessor = dict(batch_augments=dict(probs=[0.5, 0.5]))
# 5e-3 for 2,048 images ("ResNet strikes back", arXiv 2110.00476), scaled by the square root to 128
optim_wrapper = dict(optimizer=dict(_delete_=True, type='Lamb', lr=1.25e-3, weight_decay=0.02))
