# Small images, 300 epochs, every batch mixed: for a student that should get all that the teacher can give.
_base_ = ['mixed_small.py']
train_cfg = dict(max_epochs=300)
data_preprocessor = dict(batch_augments=dict(probs=[0.5, 0.5]))
