"""A program that runs exported students as a user of mmpretrain does: it imports nothing of this package itself.

Arguments: a folder of students (``NAME.py``, ``NAME.pth``), an image, and which of them need mmpretrain alone. It
prints the scores that mmpretrain's inferencer gives the image, and the accuracy of its runner, as JSON.
"""

import json
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain import ImageClassificationInferencer


def main() -> None:
    folder, image, *alone = sys.argv[1:]
    found = {}
    configs = sorted(Path(folder).glob('*.py'), key=lambda file: file.stem not in alone)
    for config in configs:
        if config.stem in alone:
            # as if it were not installed
            sys.modules['icd_mmrazor'] = None
        elif sys.modules.get('icd_mmrazor', 1) is None:
            del sys.modules['icd_mmrazor']
        weights = str(config.with_suffix('.pth'))
        scores = ImageClassificationInferencer(str(config), pretrained=weights)(image)[0]['pred_scores'].tolist()
        found[config.stem] = {'scores': scores}
        cfg = Config.fromfile(config)
        if 'test_dataloader' in cfg:
            cfg.work_dir, cfg.load_from, cfg.experiment_name = str(Path(folder, 'work')), weights, config.stem
            found[config.stem]['accuracy'] = Runner.from_cfg(cfg).test()['accuracy/top1']
    Path(folder, 'found.json').write_text(json.dumps(found))


if __name__ == '__main__':
    main()
