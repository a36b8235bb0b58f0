# EmbedDistill: scores of documents, embeddings of queries
scores = dict(
    loss=dict(type='ScoreDistillationLoss', tau=0.05, normalize=True),
    inputs=dict(
        s_query=dict(network='student', feature='embedding'),
        t_query=dict(network='teacher', feature='embedding'),
    ),
)
matching = dict(loss=dict(type='EmbeddingMatchingLoss', normalize=True), features='embedding')
