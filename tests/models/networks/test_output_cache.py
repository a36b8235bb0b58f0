"""A cache of outputs against the function that it stands for."""

import torch

from icd_mmrazor.models.networks.output_cache import OutputCache, image_keys


class Counted:
    """Twice the numbers of a batch; each that is computed is counted."""

    def __init__(self, cache: OutputCache) -> None:
        self.cache, self.computed = cache, []

    def __call__(self, *numbers: int) -> list[int]:
        def compute(places: list[int]) -> torch.Tensor:
            self.computed += [numbers[place] for place in places]
            return torch.tensor([[2 * numbers[place]] for place in places])

        outputs = self.cache(numbers, compute)
        assert outputs.shape == (len(numbers), 1)
        return outputs[:, 0].tolist()


def test_only_new_inputs_are_computed() -> None:
    double = Counted(OutputCache())
    assert double(1, 2, 3) == [2, 4, 6]
    assert double(5, 2, 2, 1, 4) == [10, 4, 4, 2, 8]
    assert double(4, 3) == [8, 6]
    assert double.computed == [1, 2, 3, 5, 4]


def test_a_full_cache_is_kept_if_inputs_come_again() -> None:
    double = Counted(OutputCache(max_outputs=2))
    for _ in range(3):
        double(1, 2)
    assert double(1, 3) == double(1, 3) == [2, 6]
    assert double.computed == [1, 2, 3, 3]
    assert double.cache.useful


def test_a_full_cache_is_given_up_if_inputs_are_new() -> None:
    double = Counted(OutputCache(max_outputs=2))
    assert (double(1, 2), double.cache.useful) == ([2, 4], True)
    assert (double(3, 4), double.cache.useful) == ([6, 8], False)


def test_keys_are_equal_for_equal_images_alone() -> None:
    images = torch.randn(4, 3, 4, 6)
    images[2] = images[0]
    keys = image_keys(images)
    assert [keys.index(key) for key in keys] == [0, 1, 0, 3]
    assert image_keys(images.contiguous(memory_format=torch.channels_last)) == keys
    assert set(image_keys(images.reshape(4, 3, 6, 4))).isdisjoint(keys)
    assert image_keys(images.bfloat16())[0] == image_keys(images[:1].bfloat16())[0]
