"""A picture as tokens in a file: what is written comes back, and no other file is believed."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.checkpoints import tokens
from engines.checkpoints.tokens import Tokens
from engines.errors import BadPicture

MODEL = "0123456789abcdef" * 4


def sample(height=16, width=20, n_embed=4096):
    indices = np.random.default_rng(0).integers(0, n_embed, (height, width))
    return Tokens(indices, (width * 8 - 3, height * 8), MODEL)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([2, 4096, 2**16, 2**20]))
@settings(deadline=None, max_examples=25)
def test_tokens_come_back(height, width, n_embed):
    saved = sample(height, width, n_embed)
    found = tokens.from_bytes(tokens.to_bytes(saved))
    assert np.array_equal(found.indices, saved.indices) and found.indices.dtype == np.int64
    assert (found.size, found.model) == (saved.size, saved.model)


def test_numpy_reads_it_and_it_is_small():
    data = tokens.to_bytes(sample(64, 64))
    with np.load(io.BytesIO(data)) as arrays:
        assert set(arrays) == {"indices", "size", "model"}
    assert len(data) < 2 * 64 * 64 + 1500


def arrays(**changes):
    stream = io.BytesIO()
    whole = {"indices": np.zeros((2, 2), np.uint16), "size": np.array([16, 16]), "model": np.array(MODEL)}
    np.savez(stream, **{name: value for name, value in (whole | changes).items() if value is not None})
    return stream.getvalue()


WHOLE = tokens.to_bytes(sample())


@pytest.mark.parametrize("data", [
    b"", b"PK", WHOLE[:-30], WHOLE[40:], WHOLE[:200] + bytes(80) + WHOLE[280:], b"\x89PNG" + bytes(99),
    arrays(indices=None), arrays(size=None), arrays(model=None), arrays(indices=np.zeros(3, np.uint16)),
    arrays(indices=np.zeros((0, 2), np.uint16)), arrays(indices=np.array([[-1]])), arrays(size=np.array([3])),
    arrays(indices=np.ones((2, 2))), arrays(size=np.array([np.inf, 8.0])),
    arrays(size=np.array([0, 8])), arrays(size=np.array("wide")), arrays(model=np.array("short")),
    arrays(indices=np.array([[object()]], dtype=object)), arrays(indices=np.array([["a"]])),
])
def test_another_file_is_refused_in_one_sentence(data):
    with pytest.raises(BadPicture, match="no tokens that can be read") as caught:
        tokens.from_bytes(data)
    assert "\n" not in str(caught.value)


def test_a_file_that_unpacks_to_very_much_is_refused_before_it_does():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("indices.npy", bytes(tokens.MAX_BYTES + 1))
    with pytest.raises(BadPicture, match="more tokens than a picture"):
        tokens.from_bytes(stream.getvalue())
