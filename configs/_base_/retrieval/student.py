# a small network that embeds queries, 128 wide as the teacher; trained alone, it embeds the gallery, too
model = dict(
    type='ImageToImageRetriever',
    image_encoder=[
        dict(type='CIFARResNet', depth=8),
        dict(type='GlobalAveragePooling'),
        dict(type='LinearNeck', in_channels=64, out_channels=128, norm_cfg=None),
    ],
    head=dict(type='InBatchRetrievalHead', tau=0.05),
    similarity_fn='cosine_similarity',
)
