# a larger network that embeds queries and gallery
_base_ = ['./student.py']
model = dict(
    image_encoder=[
        dict(type='CIFARResNet', depth=20),
        dict(type='GlobalAveragePooling'),
        dict(type='LinearNeck', in_channels=64, out_channels=128, norm_cfg=None),
    ]
)
