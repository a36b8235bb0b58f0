"""The pipelines of datasets of any kind."""

from mmengine.dataset import RepeatDataset
from mmpretrain.registry import DATASETS

from icd_mmrazor.datasets.pipelines import pipelines_of


def test_every_part_has_its_pipeline(images_file) -> None:
    def images(crop: int) -> dict:
        return dict(
            type='NPZDataset',
            data_file=str(images_file),
            images_key='train_images',
            labels_key='train_labels',
            pipeline=[dict(type='RandomCrop', crop_size=crop), dict(type='PackInputs')],
        )

    def sizes(dataset: object) -> list[int]:
        return [pipeline.transforms[0].crop_size[0] for pipeline in pipelines_of(dataset)]

    # those of the images without labels, too, whose dataset hides behind UnlabeledDataset
    parts = DATASETS.build(dict(type='PartlyLabeledDataset', labeled=images(8), unlabeled=images(9)))
    assert sizes(parts) == [8, 9]
    assert sizes(RepeatDataset(parts.labeled, 2)) == [8]
    assert sizes(DATASETS.build(dict(type='IndexedDataset', dataset=images(7)))) == [7]
