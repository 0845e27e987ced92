"""Quantisations of GGUF that `gguf` reads and cannot write, from blocks made by hand: what they read as, their steps.

The decoders here follow the layouts of ggml's blocks (`ggml-common.h`), number by number.
"""

import gguf
import numpy as np
import pytest

from helpers import weights
from helpers.weights import WeightsError
from tests.weights.building import interleaved, refused

KIND = gguf.GGMLQuantizationType
SIZES = gguf.constants.GGML_QUANT_SIZES
NONLINEAR = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # of IQ4
E2M1 = (0, 0.5, 1, 1.5, 2, 3, 4, 6)  # OCP Microscaling Formats 1.0, section 5.3.3
# Where in a block its half-precision numbers stand: the scale, and what the least of its numbers is scaled by.
HALVES = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}
HALVES |= dict.fromkeys(("IQ4_NL", "IQ4_XS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"), (0,))
BOOKS = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M")


def half(block, at):
    return float(block[at : at + 2].view(np.float16)[0])


def two_bits(block, start, i):
    """The i-th of numbers of two bits: four of each byte, 32 bytes apart."""
    return int(block[start + 32 * (i // 128) + i % 32]) >> 2 * (i % 128 // 32) & 3


def nibble(block, start, i, width):
    """The i-th of numbers of four bits: the low halves of `width` bytes, then the high ones."""
    return int(block[start + width * (i // (2 * width)) + i % width]) >> 4 * (i // width % 2) & 15


def six_bits(scales, k):
    """(scale, scale of the least) of the k-th of eight groups of Q4_K and Q5_K."""
    s = scales.astype(int)
    if k < 4:
        return s[k] & 63, s[k + 4] & 63
    return s[k + 4] & 15 | s[k - 4] >> 6 << 4, s[k + 4] >> 4 | s[k] >> 6 << 4


def q2_k(block, i):
    scale = int(block[i // 16])
    return half(block, 80) * (scale & 15), two_bits(block, 16, i), half(block, 82) * (scale >> 4)


def q3_k(block, i):
    k, scales = i // 16, block[96:108].astype(int)
    scale = scales[k % 8] >> 4 * (k // 8) & 15 | (scales[8 + k % 4] >> 2 * (k // 4) & 3) << 4
    above = int(block[i % 32]) >> i // 32 & 1
    return half(block, 108) * (scale - 32), two_bits(block, 32, i) - 4 * (1 - above), 0


def q4_k(block, i):
    scale, least = six_bits(block[4:16], i // 32)
    return half(block, 0) * scale, nibble(block, 16, i, 32), half(block, 2) * least


def q5_k(block, i):
    scale, least = six_bits(block[4:16], i // 32)
    fifth = int(block[16 + i % 32]) >> i // 32 & 1
    return half(block, 0) * scale, nibble(block, 48, i, 32) + 16 * fifth, half(block, 2) * least


def q6_k(block, i):
    group, quarter = i // 128, i % 128 // 32
    low = int(block[64 * group + 32 * (quarter % 2) + i % 32]) >> 4 * (quarter // 2) & 15
    high = int(block[128 + 32 * group + i % 32]) >> 2 * quarter & 3
    return half(block, 208) * int(block[192 + i // 16].view(np.int8)), low + 16 * high - 32, 0


def iq4_nl(block, i):
    return half(block, 0), NONLINEAR[nibble(block, 2, i, 16)], 0


def iq4_xs(block, i):
    k, high = i // 32, int(block[2:4].view(np.uint16)[0])
    scale = int(block[4 + k // 2]) >> 4 * (k % 2) & 15 | (high >> 2 * k & 3) << 4
    return half(block, 0) * (scale - 32), NONLINEAR[nibble(block, 8, i, 16)], 0


def tq1_0(block, i):
    """Digits to base 3 of a byte, which is a fraction of 256: the first digit is the whole part of three times it."""
    if i < 160:
        byte, digit = block[i % 32], i // 32
    elif i < 240:
        byte, digit = block[32 + (i - 160) % 16], (i - 160) // 16
    else:
        byte, digit = block[48 + (i - 240) % 4], (i - 240) // 4
    return half(block, 52), 3 * (int(byte) * 3**digit % 256) // 256 - 1, 0


def tq2_0(block, i):
    return half(block, 64), two_bits(block, 0, i) - 1, 0


def e2m1(code):
    return (-1) ** (code >> 3) * E2M1[code & 7]


def mxfp4(block, i):
    return 2.0 ** (int(block[0]) - 127), e2m1(nibble(block, 1, i, 16)), 0


def nvfp4(block, i):
    """A scale for 16 numbers each: four bits of exponent and three of fraction, without a sign."""
    exponent, fraction = divmod(int(block[i // 16]), 8)
    scale = (8 + fraction) * 2.0 ** (exponent - 10) if exponent else fraction * 2.0**-9
    return scale, e2m1(nibble(block, 4, i, 8)), 0


# Of each type: what decodes the i-th number of a block into (step, how many of them, what is taken off).
DECODERS = {
    **{"Q2_K": q2_k, "Q3_K": q3_k, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k, "IQ4_NL": iq4_nl, "IQ4_XS": iq4_xs},
    **{"TQ1_0": tq1_0, "TQ2_0": tq2_0, "MXFP4": mxfp4, "NVFP4": nvfp4},
}
# How many numbers share a step.
SHARING = {"Q2_K": 16, "Q3_K": 16, "Q6_K": 16, "NVFP4": 16, "TQ1_0": 256, "TQ2_0": 256}


def with_scale(block, kind, d):
    """Set the scale d of one block."""
    stored = np.array([d], np.float16).view(np.uint8)
    if kind == "IQ1_M":  # its four bits at a time are the upper ones of the four last 16-bit numbers
        block[49::2] = (
            block[49::2] & 15 | np.array([stored[0] & 15, stored[0] >> 4, stored[1] & 15, stored[1] >> 4]) << 4
        )
    else:
        block[HALVES[kind][0] : HALVES[kind][0] + 2] = stored


def random_blocks(rng, kind, rows, width=256):
    """[rows, bytes]: blocks of random codes; scales between 0.01 and 0.1."""
    numbers, size = SIZES[KIND[kind]]
    blocks = rng.integers(0, 256, (rows * width // numbers, size), dtype=np.uint8)
    for block in blocks:
        if kind == "MXFP4":
            block[0] = rng.integers(115, 125)
        elif kind == "NVFP4":
            block[:4] = rng.integers(0, 0x7F, 4)
        else:
            with_scale(block, kind, rng.uniform(0.01, 0.1))
            for at in HALVES.get(kind, ())[1:]:
                block[at : at + 2] = np.array([rng.uniform(0.01, 0.1)], np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def decoded(stored, kind):
    """(numbers, steps) of [rows, bytes], float64."""
    numbers, size = SIZES[KIND[kind]]
    told = [[DECODERS[kind](block, i) for i in range(numbers)] for block in stored.reshape(-1, size)]
    step, count, off = np.moveaxis(np.array(told), -1, 0).reshape(3, len(stored), -1)
    return step * count - off, np.abs(step)


def opened(place, tensors, kind, **counts):
    """A Llama of named blocks as GGUF, opened."""
    writer = gguf.GGUFWriter(place / "m.gguf", "llama")
    writer.add_head_count(counts.get("heads", 4))
    writer.add_head_count_kv(counts.get("kv", 2))
    for name, stored in tensors.items():
        writer.add_tensor(f"blk.0.{name}.weight", stored, raw_dtype=KIND[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights.open_base(place)


@pytest.mark.parametrize("kind", DECODERS)
def test_a_weight_is_what_its_blocks_decode_to(tmp_path, rng, kind):
    stored = random_blocks(rng, kind, 6, 512)
    base = opened(tmp_path, {"ffn_up": stored}, kind)
    read, (expected, _) = base.weight("up_proj"), decoded(stored, kind)
    assert base.kind("up_proj") == kind
    assert read.shape == base.shape("up_proj") == (6, 512)
    np.testing.assert_allclose(read, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    assert base.round_off("up_proj") is None


@pytest.mark.parametrize("kind", DECODERS)
def test_steps_are_the_least_differences_of_numbers_that_share_a_scale(tmp_path, rng, kind):
    """As the estimate of a step promises; where every code is a whole number of steps, it is a whole number of them."""
    stored = random_blocks(rng, kind, 8, 512)
    base, (numbers, true) = opened(tmp_path, {"ffn_up": stored}, kind), decoded(stored, kind)
    found, shared = base.steps("up_proj"), SHARING.get(kind, 32)
    groups = np.sort(numbers.reshape(-1, shared), axis=1)
    for group, steps, size in zip(groups, found.reshape(-1, shared), true.reshape(-1, shared), strict=True):
        gaps = np.diff(group)
        gaps = gaps[gaps > 1e-5 * np.abs(group).max()]
        expected = gaps.min() if len(gaps) else 0
        np.testing.assert_allclose(steps, expected, rtol=1e-3, atol=1e-5 * np.abs(group).max())
        assert (size == size[0]).all()
    assert base.rounding("up_proj") == pytest.approx(np.linalg.norm(found) / 2)
    if kind.startswith(("Q", "TQ")):
        apart = found[true > 0] / true[true > 0]
        np.testing.assert_allclose(apart, np.round(apart), atol=0.02)
        assert np.mean(apart < 1.5) > 0.9
        assert not found[true == 0].any()


@pytest.mark.parametrize("kind", BOOKS)
def test_a_weight_from_a_code_book_scales_with_its_block_and_belongs_to_it(tmp_path, rng, kind):
    stored = random_blocks(rng, kind, 4, 512)
    size = SIZES[KIND[kind]][1]
    doubled, other = stored.copy(), stored.copy()
    for block in stored.reshape(-1, size):
        with_scale(block, kind, 0.03125)
    for block in doubled.reshape(-1, size):
        with_scale(block, kind, 0.0625)
    other[:] = stored
    other[2, size:] = random_blocks(rng, kind, 1, 256)
    base = opened(tmp_path, {"ffn_up": stored, "ffn_gate": doubled, "attn_v": other}, kind)
    read = base.weight("up_proj")
    assert read.shape == base.shape("up_proj") == (4, 512)
    assert len(np.unique(np.abs(read))) > 3
    np.testing.assert_array_equal(base.weight("gate_proj"), 2 * read)
    np.testing.assert_allclose(base.steps("gate_proj"), 2 * base.steps("up_proj"))
    changed = base.weight("v_proj") != read
    assert changed[2, 256:].any()
    changed[2, 256:] = False
    assert not changed.any()
    assert base.round_off("up_proj") is None
    assert 0 < base.rounding("up_proj") < np.linalg.norm(read)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"])
def test_rows_of_queries_and_keys_are_put_back_in_order_and_their_steps_with_them(tmp_path, rng, kind):
    q, k = random_blocks(rng, kind, 32), random_blocks(rng, kind, 16)
    held = {"attn_q": interleaved(q, 4), "attn_k": interleaved(k, 2), "ffn_up": q, "ffn_down": k}
    base = opened(tmp_path, held, kind, heads=4, kv=2)
    for permuted, plain in (("q_proj", "up_proj"), ("k_proj", "down_proj")):
        np.testing.assert_array_equal(base.weight(permuted), base.weight(plain))
        np.testing.assert_array_equal(base.steps(permuted), base.steps(plain))
        assert base.rounding(permuted) == pytest.approx(base.rounding(plain))


@pytest.mark.parametrize("kind", ["Q8_K", "Q8_1", "Q1_0"])
def test_types_that_the_library_does_not_decode_are_refused(tmp_path, rng, kind):
    numbers, size = SIZES[KIND[kind]]
    base = opened(tmp_path, {"ffn_up": rng.integers(0, 256, (4, 512 // numbers * size), dtype=np.uint8)}, kind)
    refused(lambda: base.weight("up_proj"), "blk.0.ffn_up.weight", kind)
    assert base.shape("up_proj") == (4, 512)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["Q2_K", "Q4_K", "Q6_K", "IQ4_XS", "IQ2_S", "IQ1_M", "TQ1_0"])
def test_a_scale_that_is_no_number_is_refused(tmp_path, rng, kind, number):
    stored = random_blocks(rng, kind, 4)
    with_scale(stored[1], kind, number)
    base = opened(tmp_path, {"ffn_up": stored}, kind)
    for ask in (base.weight, base.steps, base.rounding):
        with pytest.raises(WeightsError, match="NaN or Inf"):
            ask("up_proj")


def test_a_weight_beside_a_scale_is_refused(tmp_path, rng):
    """llama.cpp multiplies it by `….scale`, as in BitNet; alone it would read as another."""
    stored = random_blocks(rng, "TQ2_0", 4)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("blk.0.ffn_up.weight", stored, raw_dtype=KIND["TQ2_0"])
    writer.add_tensor("blk.0.ffn_up.scale", np.ones(1, np.float32))
    writer.add_tensor("blk.0.ffn_down.weight", stored, raw_dtype=KIND["TQ2_0"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    base = weights.open_base(tmp_path)
    refused(lambda: base.weight("up_proj"), "model.layers.0.mlp.up_proj", "blk.0.ffn_up.scale", "unquantised")
    assert base.shape("up_proj") is None
    assert base.weight("down_proj").any()
