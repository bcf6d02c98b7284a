"""torch's DataLoader with workers, by each start method."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

METHODS = "fork", "spawn", "forkserver"


class Numbers(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, at):
        return torch.full((3, 8), at), at


class Arrays(Numbers):
    def __getitem__(self, at):
        return np.full((100, 100), at, np.float32)


class Stream(IterableDataset):
    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        yield from range(info.id, 20, info.num_workers)


class Broken(Numbers):
    def __getitem__(self, at):
        raise ValueError(at)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dataset", [Numbers, Arrays])
def test_all_in_order(method, dataset):
    loader = DataLoader(dataset(), batch_size=4, num_workers=2, multiprocessing_context=method)
    for _ in range(2):
        seen = [batch[1] if dataset is Numbers else batch[:, 0, 0] for batch in loader]
        assert torch.cat(seen).tolist() == list(range(64))


@pytest.mark.parametrize("method", METHODS)
def test_streams_and_persistent_workers(method):
    loader = DataLoader(Stream(), batch_size=2, num_workers=2, multiprocessing_context=method, persistent_workers=True)
    for _ in range(2):
        assert sorted(number for batch in loader for number in batch.tolist()) == list(range(20))


@pytest.mark.parametrize("method", METHODS)
def test_errors_come_up(method):
    with pytest.raises(ValueError):
        list(DataLoader(Broken(), num_workers=1, multiprocessing_context=method))
