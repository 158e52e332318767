import numpy as np
import pytest
from astropy.io.fits import Header

from apfunc.arith import BINARY, UNARY, arith


def image(values, dtype="f4", **keys):
    return np.array(values, dtype, ndmin=2), Header(dict(RAWFILE="a.fit", **keys))


def test_integers_do_not_wrap():
    data, _ = arith("sub", image([1], "u2"), image([2], "u2"))
    assert data.dtype == np.float32 and data[0, 0] == -1
    assert arith("add", image([65535], "u2"), image([65535], "u2"))[0][0, 0] == 131070
    assert arith("sub", image([2**30 + 1], "i4"), image([2**30], "i4"))[0][0, 0] == 1
    assert arith("neg", image([1], "u1"))[0][0, 0] == -1
    assert arith("-", image([0], "u2"), 1)[0][0, 0] == -1


def test_each_operation_is_its_python_twin():
    a, b = image([1.5, 2, -3, 7]), image([2, -4, 2, 3])
    import math
    import operator

    twin = {
        "add": operator.add,
        "sub": operator.sub,
        "mul": operator.mul,
        "div": operator.truediv,
        "pow": operator.pow,
        "mod": operator.mod,
        "min": min,
        "max": max,
    }
    assert set(twin) == set(BINARY)
    for op, function in twin.items():
        for second, values in ((b, b[0][0]), (3.0, [3.0] * 4)):
            expected = [function(float(x), float(y)) for x, y in zip(a[0][0], values)]
            np.testing.assert_allclose(arith(op, a, second)[0][0], expected, rtol=1e-6)
    twin = {
        "neg": operator.neg,
        "abs": abs,
        "sqrt": math.sqrt,
        "log": math.log,
        "log10": math.log10,
        "exp": math.exp,
        "square": lambda v: v * v,
    }
    assert set(twin) == set(UNARY)
    for op, function in twin.items():
        np.testing.assert_allclose(arith(op, image([1.5, 2, 7]))[0][0], [function(v) for v in (1.5, 2, 7)], rtol=1e-6)


def test_signs_and_number_first():
    a = image([4.0, 2.0])
    for sign, op in zip("+ - * / ** ^ %".split(), "add sub mul div pow pow mod".split()):
        assert np.array_equal(arith(sign, a, 3)[0], arith(op, a, 3)[0])
    assert arith("-", a)[0].tolist() == [[-4, -2]]
    assert arith("sub", 1, a)[0].tolist() == [[-3, -1]]
    assert arith("div", 8, a)[0].tolist() == [[2, 4]]


def test_nan_spreads_and_impossible_results_are_nan():
    a = image([np.nan, 0, -1, 1e30, np.inf])
    for op in BINARY:
        assert np.isnan(arith(op, a, image([1, np.nan, 1, 1, 1]))[0][0, :2]).all()
    assert np.isnan(arith("div", a, 0)[0]).all()
    assert np.isnan(arith("sqrt", a)[0][0, [0, 2, 4]]).all()
    assert np.isnan(arith("log", a)[0][0, [0, 1, 2, 4]]).all()
    assert np.isnan(arith("mul", a, a)[0][0, 3])  # overflow
    assert np.isnan(arith("add", a, float("nan"))[0]).all()


def test_arguments_stay_and_header_is_a_copy():
    a = image([1.0, 2.0], BUNIT="adu")
    data, header = arith("add", a, 1)
    assert a[0].tolist() == [[1, 2]] and "HISTORY" not in a[1]
    assert header["HISTORY"][0] == "apfunc arith op=add b=1"
    assert "RAWFILE" in header and header["BUNIT"] == "adu"
    assert arith("abs", a)[0] is not a[0]


def test_noise_keywords_follow():
    a = image([1.0], EGAIN=2.0, RDNOISE=3.0, SATURATE=100.0, BUNIT="adu")
    header = arith("add", a, 10)[1]
    assert (header["SATURATE"], header["EGAIN"], header["RDNOISE"]) == (110, 2, 3)
    header = arith("sub", a, 10)[1]
    assert header["SATURATE"] == 90
    for op, b in (("mul", 4), ("div", 0.25)):
        header = arith(op, a, b)[1]
        assert (header["SATURATE"], header["EGAIN"], header["RDNOISE"]) == (400, 0.5, 3)
    header = arith("sub", a, a)[1]
    assert header["RDNOISE"] == pytest.approx(3 * 2**0.5) and "SATURATE" not in header and header["EGAIN"] == 2
    header = arith("sqrt", a)[1]
    assert not {"SATURATE", "EGAIN", "RDNOISE", "BUNIT"} & set(header)
    header = arith("sub", 1, a)[1]
    assert "SATURATE" not in header
    assert "BUNIT" not in arith("div", a, a)[1] and "EGAIN" not in arith("div", a, a)[1]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("foo", image([1])), "unknown operation foo"),
        (("add", image([1])), "second operand"),
        (("sqrt", image([1]), 2), "takes one image"),
        (("add", 1, 2), "no image"),
        (("add", image([1, 2]), image([1])), "2x1 and 1x1"),
    ],
)
def test_clear_errors(arguments, words):
    with pytest.raises(ValueError, match=words):
        arith(*arguments)


def test_multiplication_matches_ccdproc():
    import warnings

    ccdproc = pytest.importorskip("ccdproc")
    rng = np.random.default_rng(1)
    a, b = (rng.normal(100, 10, (32, 32)).astype("f4") for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = ccdproc.CCDData(a, unit="adu").multiply(ccdproc.CCDData(b, unit="adu")).data
    np.testing.assert_allclose(arith("mul", (a, Header()), (b, Header()))[0], expected, rtol=1e-6)
