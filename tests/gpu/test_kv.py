"""The KV cache on a GPU: pages of the CPU bit by bit, attention and a model's text
over them."""

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("quashdb.kv")
if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU", allow_module_level=True)

# pylint: disable=wrong-import-position
from quashdb.kv import QuashKVCacheConfig, UnsupportedError
from quashdb.kv._cuda import CudaLayer, CudaStore
from quashdb.kv._ffi import lib
from quashdb.kv.errors import InvalidError

if lib.quash_kv_cuda_devices() == 0:
    pytest.skip("the QuashKV library has no CUDA", allow_module_level=True)

PAGE = 64
DEVICE = torch.device("cuda", 0)


def rows_like_keys(heads, n, dim, dtype, seed):
    """Numbers with outlying coordinates and offsets, and rows of every odd kind."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, heads, n, dim, generator=generator)
    x = x * (1 + 8 * (torch.rand(dim, generator=generator) > 0.95)) + torch.randn(
        1, heads, 1, dim, generator=generator)
    x[:, :, 3] = 0
    x[:, :, 5] = 1.5
    x[:, :, 7] *= 1e-4
    x[:, :, 11] *= 500
    if n >= 320:
        x[:, :, 128:192] = 0  # a page of zeros
        x[:, :, 192:256] = 0.25  # a page of equal numbers
        x[:, :, 256:320] *= 1e-6
    return x.to(dtype)


def pages_of(saved, n_pages, page_bytes):
    """Bytes of the pages of a saved sequence of one layer without sinks."""
    at, pages = 56, []
    for _ in range(n_pages):
        pages.append(torch.frombuffer(bytearray(saved[at + 8:at + 8 + page_bytes]),
                                      dtype=torch.uint8))
        at += 8 + page_bytes
    return torch.stack(pages)


def assert_pages_and_rows_of_the_cpu(config, dim, dtype):
    heads, n = 3, 7 * PAGE + 31
    k = rows_like_keys(heads, n, dim, dtype, 1)
    v = rows_like_keys(heads, n, dim, dtype, 2)
    host = config.make_store(1, heads, dim, dtype)
    seq = host.create()
    store = CudaStore(heads, dim, config, dtype, DEVICE)
    layer = CudaLayer(store, 1)
    layer.reserve(8)
    at = 0
    for count in (1, 63, 5, 1, 130, n - 200):
        piece = slice(at, at + count)
        host.append(seq, 0, k[0, :, piece].transpose(0, 1), v[0, :, piece].transpose(0, 1))
        store.append(layer, k[:, :, piece].to(DEVICE), v[:, :, piece].to(DEVICE))
        at += count
    torch.cuda.synchronize()
    stats = host.stats()
    assert layer.num_pages.tolist() == [stats.pages]
    assert layer.open_tokens.tolist() == [n - PAGE * stats.pages]
    assert not layer.flags.any()
    expected = pages_of(host.save(seq), stats.pages, store.page_bytes)
    assert torch.equal(layer.pages[0, :stats.pages].cpu(), expected)
    read = store.read(layer, n, torch.float32)
    for ours, theirs in zip(read, host.read(seq, 0), strict=True):
        assert torch.equal(ours[0].transpose(0, 1).cpu(), theirs)
    part = store.read(layer, 2 * PAGE, torch.float32, first=PAGE)
    rest = store.read(layer, n - 3 * PAGE, torch.float32, first=3 * PAGE)
    for whole, some, more in zip(read, part, rest, strict=True):
        assert torch.equal(whole[:, :, PAGE:], torch.cat((some, more), 2))


def assert_pages_of_the_cpu(config, k, v):
    """All tokens in one call, [1, heads, n, dim]."""
    _, heads, n, dim = k.shape
    host = config.make_store(1, heads, dim, k.dtype)
    seq = host.create()
    host.append(seq, 0, k[0].transpose(0, 1), v[0].transpose(0, 1))
    store = CudaStore(heads, dim, config, k.dtype, DEVICE)
    layer = CudaLayer(store, 1)
    layer.reserve(n // PAGE)
    store.append(layer, k.to(DEVICE), v.to(DEVICE))
    pages = host.stats().pages
    assert layer.num_pages.tolist() == [pages]
    expected = pages_of(host.save(seq), pages, store.page_bytes)
    assert torch.equal(layer.pages[0, :pages].cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("bits", [(4, 4), (3, 3), (2, 2), (4, 2), (2, 3)])
@pytest.mark.parametrize("means, seed", [(True, QuashKVCacheConfig.seed), (True, 7),
                                         (False, QuashKVCacheConfig.seed)])
@pytest.mark.parametrize("rotation", ["hadamard", "rht"])
def test_pages_and_rows_are_those_of_the_cpu(dtype, dim, bits, means, seed, rotation):
    config = QuashKVCacheConfig(key_bits=bits[0], value_bits=bits[1], sink_pages=0, reserve=5,
                                k_mean=means, v_mean=means, seed=seed, rotation=rotation)
    if rotation == "rht" and dim == 256:
        with pytest.raises(UnsupportedError, match="rht"):
            CudaStore(3, dim, config, dtype, DEVICE)
        return
    assert_pages_and_rows_of_the_cpu(config, dim, dtype)


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("dtype, scale", [
    *((torch.float32, scale) for scale in (1e-42, 1e-30, 1e-6, 1.0, 300.0, 3000.0)),
    *((torch.bfloat16, scale) for scale in (1e-38, 1e-30, 1.0, 3000.0)),
    *((torch.float16, scale) for scale in (1e-6, 1.0, 3000.0))])
def test_pages_of_odd_numbers_are_those_of_the_cpu(dim, dtype, scale):
    """One or two numbers in a row, from denormal ones to the largest there may be."""
    config = QuashKVCacheConfig(sink_pages=0, reserve=0, rotation="rht")
    heads, n = 2, 6 * PAGE
    generator = torch.Generator().manual_seed(dim)
    k, v = (torch.zeros(1, heads, n, dim) for _ in range(2))
    for side in (k, v):
        at = torch.randint(0, dim, (1, heads, n, 2), generator=generator)
        side.scatter_(3, at, torch.randn(1, heads, n, 2, generator=generator))
        side[:, :, 2 * PAGE:3 * PAGE] += torch.randn(1, heads, 1, dim, generator=generator)
        side[:, :, ::7] *= 1e-3
        side *= scale
    assert_pages_of_the_cpu(config, k.to(dtype), v.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("k_mean", [True, False])
def test_pages_with_means_of_one_side_are_those_of_the_cpu(dtype, dim, k_mean):
    config = QuashKVCacheConfig(sink_pages=0, reserve=0, rotation="rht", k_mean=k_mean,
                                v_mean=not k_mean)
    k, v = (rows_like_keys(2, 5 * PAGE, dim, dtype, seed) for seed in (1, 2))
    assert_pages_of_the_cpu(config, k, v)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("bits, outliers", [((2.5, 2.5), False), ((3.5, 3.5), True),
                                            ((2.5, 3.5), True), ((4, 2.5), False),
                                            ((3.5, 3), False)])
@pytest.mark.parametrize("means", [True, False])
def test_pages_of_two_bands_are_those_of_the_cpu(dtype, dim, bits, outliers, means):
    odd = tuple(range(1, dim, 2))
    config = QuashKVCacheConfig(
        key_bits=bits[0], value_bits=bits[1], sink_pages=0, reserve=5, k_mean=means, v_mean=means,
        k_outliers=odd if outliers and bits[0] % 1 else None,
        v_outliers=odd[::-1] if outliers and bits[1] % 1 else None)
    assert_pages_and_rows_of_the_cpu(config, dim, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("bits", [(2, 2), (3, 3.5), (4, 4)])
@pytest.mark.parametrize("means", [True, False])
def test_pages_of_sketches_are_those_of_the_cpu(dtype, dim, bits, means):
    config = QuashKVCacheConfig(key_bits=bits[0], value_bits=bits[1], k_quantizer="tq_prod",
                                sink_pages=0, reserve=5, k_mean=means, v_mean=means)
    assert_pages_and_rows_of_the_cpu(config, dim, dtype)


@pytest.mark.parametrize("bits, rotation", [
    (2, "hadamard"), (2.5, "hadamard"), (3, "hadamard"), (3.5, "hadamard"), (4, "hadamard"),
    (2, "rht"), (3, "rht"), (4, "rht")])
def test_many_pages_are_those_of_the_cpu(bits, rotation):
    """Enough rows that some have scales which only exact sums round rightly."""
    config = QuashKVCacheConfig(key_bits=bits, value_bits=bits, sink_pages=0, rotation=rotation)
    shape = (1, 4, 200 * PAGE + 16, 128)
    k, v = (torch.randn(shape, generator=torch.Generator().manual_seed(s)).bfloat16()
            for s in range(2))
    assert_pages_of_the_cpu(config, k, v)


@pytest.mark.parametrize("sink_pages", [0, 1, 2])
@pytest.mark.parametrize("pieces", [(1,) * 200, (500, 1, 1, 77), (63, 1, 64, 65, 200), (40, 2)])
def test_batches_sinks_and_padding(sink_pages, pieces):
    config = QuashKVCacheConfig(sink_pages=sink_pages, reserve=16)
    heads, dim, n, dtype = 2, 128, sum(pieces), torch.bfloat16
    begins = [0, 17, 39]
    k = torch.cat([rows_like_keys(heads, n, dim, dtype, s) for s in range(3)])
    v = torch.cat([rows_like_keys(heads, n, dim, dtype, 9 + s) for s in range(3)])
    store = CudaStore(heads, dim, config, dtype, DEVICE)
    layer = CudaLayer(store, 3)
    layer.reserve(n // PAGE + 1)
    padding = torch.tensor(begins, dtype=torch.int32, device=DEVICE) if pieces[0] >= 40 else None
    at = 0
    for count in pieces:
        piece = slice(at, at + count)
        store.append(layer, k[:, :, piece].to(DEVICE), v[:, :, piece].to(DEVICE),
                     padding if at == 0 else None)
        at += count
    read_k, read_v = store.read(layer, n, torch.float32, padding)
    host = config.make_store(1, heads, dim, dtype)
    for row in range(3):
        begin = begins[row] if padding is not None else 0
        seq = host.create()
        host.append(seq, 0, k[row, :, begin:].transpose(0, 1), v[row, :, begin:].transpose(0, 1))
        expected_k, expected_v = host.read(seq, 0)
        assert torch.equal(read_k[row, :, begin:].transpose(0, 1).cpu(), expected_k)
        assert torch.equal(read_v[row, :, begin:].transpose(0, 1).cpu(), expected_v)
        assert not read_k[row, :, :begin].any()


@pytest.mark.parametrize("bits", [2, 2.5, 3, 3.5, 4])
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_attention_over_a_graph_of_steps(bits, dim):
    """Steps replayed from one graph give the attention of what is then stored."""
    config = QuashKVCacheConfig(key_bits=bits, value_bits=bits, reserve=16)
    heads, groups, batch, start, steps = 2, 4, 2, 300, 150
    store = CudaStore(heads, dim, config, torch.bfloat16, DEVICE)
    layer = CudaLayer(store, batch)
    layer.reserve(8)
    make = lambda *shape: torch.randn(shape, device=DEVICE).bfloat16()
    store.append(layer, make(batch, heads, start, dim), make(batch, heads, start, dim))
    k, v = make(batch, heads, 1, dim), make(batch, heads, 1, dim)
    q = make(batch, heads * groups, dim)
    store.attend(layer, q)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        store.append(layer, k, v)
        out, lse = store.attend(layer, q, return_lse=True)
    for step in range(steps):
        for tensor in (k, v, q):
            tensor.normal_()
        graph.replay()
        if step % 29 and step < steps - 1:
            continue
        keys, values = (x.double().repeat_interleave(groups, 1)
                        for x in store.read(layer, start + step + 1, torch.float32))
        scores = torch.einsum("bhd,bhtd->bht", q.double(), keys) / math.sqrt(dim)
        expected = torch.einsum("bht,bhtd->bhd", scores.softmax(-1), values)
        assert (out.double() - expected).norm() < 4e-3 * expected.norm()
        assert (lse.double() - scores.logsumexp(-1)).abs().max() < 2e-3
    assert not layer.flags.any()
    assert layer.num_pages.tolist() == [(start + steps - PAGE - 16) // PAGE] * batch


def attended(store, layer, q, length, window=0, softcap=0.0):
    """float64 outputs and lse of the newest tokens of each sequence, over what is stored."""
    keys, values = store.read(layer, length, torch.float32)
    group = q.shape[2] // keys.shape[1]
    keys, values = (x.double().repeat_interleave(group, 1) for x in (keys, values))
    scores = torch.einsum("bqhd,bhtd->bhqt", q.double(), keys) / math.sqrt(q.shape[3])
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    last = torch.arange(length - q.shape[1], length, device=DEVICE)[:, None]
    at = torch.arange(length, device=DEVICE)[None]
    seen = (at <= last) & (at > last - (window or length))
    scores = scores.masked_fill(~seen, float("-inf"))
    out = torch.einsum("bhqt,bhtd->bqhd", scores.softmax(-1), values)
    return out, scores.logsumexp(-1).transpose(1, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens,group", [(1, 4), (2, 1), (3, 4), (8, 2), (8, 8)])
@pytest.mark.parametrize("options", [{}, {"window": 1}, {"window": 130}, {"softcap": 2.0},
                                     {"window": 40, "softcap": 30.0}])
@pytest.mark.parametrize("bits", [(4, 3), (2.5, 3.5)])
def test_attention_of_several_tokens_windows_and_caps(dtype, tokens, group, options, bits):
    heads, dim, batch = 2, 128, 3
    outliers = {f"{side}_outliers": range(1, dim, 2)
                for side, count in zip("kv", bits, strict=True) if count % 1}
    config = QuashKVCacheConfig(key_bits=bits[0], value_bits=bits[1], sink_pages=1, reserve=16,
                                **outliers)
    store = CudaStore(heads, dim, config, dtype, DEVICE)
    layer = CudaLayer(store, batch)
    layer.reserve(10)
    generator = torch.Generator(DEVICE).manual_seed(tokens)
    make = lambda *shape: torch.randn(shape, device=DEVICE, generator=generator).to(dtype)
    for length in (tokens, 70, 500):
        count = length - (int(layer.num_pages[0]) * PAGE + int(layer.open_tokens[0]))
        store.append(layer, make(batch, heads, count, dim), make(batch, heads, count, dim))
        q = make(batch, tokens, heads * group, dim)
        out, lse = store.attend(layer, q, return_lse=True, **options)
        expected, expected_lse = attended(store, layer, q, length, **options)
        assert (out.double() - expected).norm() < 4e-3 * expected.norm()
        assert (lse.double() - expected_lse).abs().max() < 2e-3
        again, lse_again = store.attend(layer, q, return_lse=True, **options)
        assert torch.equal(out, again) and torch.equal(lse, lse_again)


@pytest.mark.parametrize("bits", [(2, 2), (2, 4), (3, 2), (3, 3), (4, 2), (4, 4), (2.5, 2.5),
                                  (3.5, 3.5), (2.5, 3.5), (4, 3.5), (2.5, 2), (3.5, 3)])
@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("group", [1, 3, 8])
@pytest.mark.parametrize("options", [{}, {"k_mean": False, "v_mean": False},
                                     {"k_quantizer": "tq_prod"}])
def test_attention_at_page_edges(bits, dim, group, options):
    """Against the CPU's attention over the same pages."""
    if "k_quantizer" in options and bits[0] % 1:
        pytest.skip("tq_prod has whole bits")
    config = QuashKVCacheConfig(key_bits=bits[0], value_bits=bits[1], sink_pages=0, reserve=0,
                                **options)
    heads, lengths = 2, (1, 63, 64, 65, 127, 128, 129, 640)
    generator = torch.Generator().manual_seed(dim)
    k, v = (torch.randn(heads, 640, dim, generator=generator).bfloat16() for _ in range(2))
    q = torch.randn(heads * group, dim, generator=generator).bfloat16()
    store = CudaStore(heads, dim, config, torch.bfloat16, DEVICE)
    host = config.make_store(1, heads, dim, torch.bfloat16)
    for length in lengths:
        layer = CudaLayer(store, 1)
        layer.reserve(10)
        store.append(layer, k[None, :, :length].to(DEVICE), v[None, :, :length].to(DEVICE))
        out, _ = store.attend(layer, q[None].to(DEVICE))
        seq = host.create()
        host.append(seq, 0, k[:, :length].transpose(0, 1), v[:, :length].transpose(0, 1))
        expected, _ = host.attend(0, [seq], q[None])
        assert (out.cpu().double() - expected.double()).norm() < 8e-3 * expected.double().norm()


@pytest.mark.parametrize("bits", [4, 2.5])
def test_layers_on_two_devices(bits):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    config = QuashKVCacheConfig(key_bits=bits, value_bits=bits)
    generator = torch.Generator().manual_seed(1)
    k, v = (torch.randn(1, 2, 700, 128, generator=generator).bfloat16() for _ in range(2))
    q = torch.randn(1, 8, 128, generator=generator).bfloat16()
    outs = []
    for ordinal in (0, 1):
        device = torch.device("cuda", ordinal)
        store = CudaStore(2, 128, config, torch.bfloat16, device)
        layer = CudaLayer(store, 1)
        layer.reserve(12)
        store.append(layer, k.to(device), v.to(device))
        outs.append(store.attend(layer, q.to(device))[0].cpu())
    assert torch.equal(*outs)


def test_attention_refuses_what_it_does_not_take():
    store = CudaStore(2, 128, QuashKVCacheConfig(), torch.bfloat16, DEVICE)
    layer = CudaLayer(store, 1)
    for shape, message in (((1, 9, 4, 128), "query_tokens is 9"), ((1, 3, 128), "num_q_heads is 3")):
        with pytest.raises(InvalidError, match=message):
            store.attend(layer, torch.zeros(shape, device=DEVICE, dtype=torch.bfloat16))
    with pytest.raises(InvalidError, match="expected torch.bfloat16"):
        store.attend(layer, torch.zeros(1, 4, 128, device=DEVICE))


def test_full_pages_are_reported():
    config = QuashKVCacheConfig(sink_pages=0)
    store = CudaStore(1, 64, config, torch.bfloat16, DEVICE)
    layer = CudaLayer(store, 1)
    layer.reserve(1)
    x = torch.randn(1, 1, 300, 64, device=DEVICE).bfloat16()
    store.append(layer, x, x)
    assert layer.flags[-1] == 1 and layer.num_pages[0] == 1


def test_what_the_kernels_do_not_take():
    with pytest.raises(UnsupportedError, match="rotation is dense"):
        CudaStore(1, 128, QuashKVCacheConfig(rotation="dense"), torch.bfloat16, DEVICE)
    with pytest.raises(UnsupportedError, match="head_dim is 96"):
        CudaStore(1, 96, QuashKVCacheConfig(), torch.bfloat16, DEVICE)
