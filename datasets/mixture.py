"""Makes any number of vectors that are like given real embeddings.

    mixture.py REAL N DIM OUTPUT    REAL: .npy, .fvecs, ... [n, dim] or a folder
                                    with base.npy or vectors.npy
    writes OUTPUT/base.npy [N, DIM] float16, OUTPUT/queries.npy float16 from the
    same mixture, and OUTPUT/neighbors.ivecs [nq, k], cosine. It needs memory for
    one block of rows only.

The model is a mixture of Gaussians with families:
- Components are the k-means clusters of the real vectors, one for 500 rows. Each
  has its mean, the RANK leading directions of its own covariance, and for the
  variance left the spectrum that is left over all clusters; the length of its
  rows' residuals follows the real ones.
- Rows of a component come in families of heavy-tailed size. A row is its parent
  (an earlier row of the family) times rho plus sqrt(1 - rho^2) times a fresh draw,
  which keeps the component's covariance and makes near neighbours at all
  distances, as in real texts: versions, translations, common subjects.
- A share of the rows blends two rows of different families: neighbours that lie
  in clusters far apart, the tail that makes high recall expensive.
The family and blend constants were chosen so that distances to neighbours, local
intrinsic dimension, and the recall of IVF and HNSW agree with the real ones
(bench/sublinear/realism.py compares them).

DIM above the real one: means and leading directions are embedded unchanged; the
shared spectrum is stretched to DIM directions by a power of the index, which
adds directions to the tail and leaves the first ones nearly as they are.
"""

import pathlib
import sys

import arguments
import loaders
import numpy as np

ROWS_PER_COMPONENT = 500
RANK = 64
KMEANS_ROUNDS = 10
FAMILY_TAIL = 1.0  # of the Pareto law of family sizes
FAMILY_MAX = 300
PARENT_BETA = (2.0, 2.0)  # of the distance to the parent ...
PARENT_MAX = 1.4  # ... in units of the residual's length
BLEND_SHARE = 0.1
BLEND_WEIGHT = (0.2, 0.5)  # of the second row
BLOCK_ROWS = 32768


def normalize(vectors):
    """In place: rows of unit length, zero rows unchanged."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(norms > 0, norms, 1)
    return vectors


def kmeans(vectors, count, rng):
    """[count, dim] means and the cluster of each row, Lloyd's algorithm."""
    means = vectors[rng.choice(len(vectors), count, replace=False)]
    for _ in range(KMEANS_ROUNDS):
        scores = vectors @ means.T - 0.5 * (means**2).sum(1)
        cluster = scores.argmax(1)
        order = np.argsort(cluster, kind="stable")
        sizes = np.bincount(cluster, minlength=count)
        used = np.flatnonzero(sizes)
        starts = np.searchsorted(cluster[order], used)
        means[used] = np.add.reduceat(vectors[order], starts) / sizes[used, None]
    return means, cluster


class Mixture:
    """The model fitted to vectors [n, dim], scaled to unit length; samples have
    out_dim >= dim dimensions."""

    def __init__(self, vectors, out_dim, seed=2026):
        vectors = normalize(np.array(vectors, np.float32))
        n, dim = vectors.shape
        if out_dim < dim:
            raise ValueError(f"dimension {out_dim}, expected at least the data's {dim}")
        if n < 2 * ROWS_PER_COMPONENT:
            raise ValueError(f"{n} vectors, expected at least {2 * ROWS_PER_COMPONENT} to fit to")
        rng = np.random.default_rng(seed)
        means, cluster = kmeans(vectors, n // ROWS_PER_COMPONENT, rng)
        # Orthonormal [out_dim, out_dim]; its first dim rows hold the real space.
        basis = np.eye(dim, out_dim)
        if out_dim > dim:
            basis, _ = np.linalg.qr(rng.standard_normal((out_dim, out_dim)))
        self.mean = (vectors.mean(0) @ basis[:dim]).astype(np.float32)
        self.means = (means @ basis[:dim]).astype(np.float32)
        self.weights = np.bincount(cluster, minlength=len(means)) / n
        self.factors, self.rest, self.radii = [], [], []
        covariance = np.zeros((dim, dim))  # of what the factors leave
        for component in range(len(means)):
            own = vectors[cluster == component] - means[component]
            _, sizes, rows = np.linalg.svd(own / max(1, len(own)) ** 0.5, full_matrices=False)
            factor = sizes[:RANK, None] * rows[:RANK] @ basis[:dim]
            self.factors.append(factor.astype(np.float32))
            self.rest.append(float((sizes[RANK:] ** 2).sum()) ** 0.5)
            lengths = np.linalg.norm(own, axis=1)
            self.radii.append(lengths / max(1e-9, np.mean(lengths**2) ** 0.5))
            left = own - own @ rows[:RANK].T @ rows[:RANK]
            covariance += left.T @ left
        values, directions = np.linalg.eigh(covariance)
        values = np.maximum(values[::-1], 1e-12)
        directions = np.concatenate([directions[:, ::-1].T @ basis[:dim], basis[dim:]])[:out_dim]
        stretched = np.arange(1, out_dim + 1) ** (np.log(dim) / np.log(out_dim)) - 1
        values = np.interp(stretched, np.arange(dim), values)
        # [out_dim, out_dim]: a standard normal row times it has unit variance in
        # all and the shared spectrum.
        self.shared = (np.sqrt(values / values.sum())[:, None] * directions).astype(np.float32)

    @property
    def dim(self):
        return self.means.shape[1]

    def _draw(self, rng, component):
        """One residual per row of `component`, which ascends."""
        drawn = rng.standard_normal((len(component), self.dim), np.float32) @ self.shared
        for c in np.unique(component):
            first, end = np.searchsorted(component, [c, c + 1])
            factor = self.factors[c]
            own = rng.standard_normal((end - first, len(factor)), np.float32) @ factor
            drawn[first:end] *= self.rest[c]
            drawn[first:end] += own
        return drawn

    def sample(self, rng, n):
        """[n, dim] float32 unit vectors, families in random order."""
        sizes = np.minimum(rng.pareto(FAMILY_TAIL, n) + 1, FAMILY_MAX).astype(np.int64)
        families = int(np.searchsorted(np.cumsum(sizes), n)) + 1
        sizes = sizes[:families]
        sizes[-1] -= sizes.sum() - n
        family_component = np.sort(rng.choice(len(self.weights), families, p=self.weights))
        first = np.repeat(np.cumsum(sizes) - sizes, sizes)
        place = np.arange(n) - first  # within the family
        component = np.repeat(family_component, sizes)
        vectors = self._draw(rng, component)
        parent = first + (rng.random(n) * place).astype(np.int64)
        rho = (1 - 0.5 * (PARENT_MAX * rng.beta(*PARENT_BETA, n)) ** 2).astype(np.float32)
        by_place = np.argsort(place, kind="stable")
        ends = np.cumsum(np.bincount(place))
        for begin, end in zip(ends[:-1], ends[1:]):  # parents before their children
            rows = by_place[begin:end]
            r = rho[rows, None]
            vectors[rows] = r * vectors[parent[rows]] + np.sqrt(1 - r * r) * vectors[rows]
        radius = np.array([rng.choice(self.radii[c]) for c in family_component], np.float32)
        vectors *= np.repeat(radius, sizes)[:, None]
        vectors += self.means[component]
        self._blend(rng, normalize(vectors))
        rng.shuffle(vectors)
        return vectors

    def _blend(self, rng, vectors):
        """In place; the spread around the common mean stays."""
        rows = np.flatnonzero(rng.random(len(vectors)) < BLEND_SHARE)
        other = vectors[rng.integers(0, len(vectors), len(rows))] - self.mean
        weight = rng.uniform(*BLEND_WEIGHT, (len(rows), 1)).astype(np.float32)
        mixed = (1 - weight) * (vectors[rows] - self.mean) + weight * other
        mixed /= np.sqrt(weight**2 + (1 - weight) ** 2)
        vectors[rows] = normalize(self.mean + mixed)


def nearest(base, queries, k, rows=BLOCK_ROWS):
    """int32 [nq, k]: rows of base [n, dim] with the highest cosine to each query,
    best first, ties in any order; in float32, over blocks of `rows` rows."""
    queries = normalize(np.array(queries, np.float32))
    k = min(k, len(base))
    best = np.empty((len(queries), 0), np.float32)
    ids = np.empty((len(queries), 0), np.int64)
    for begin in range(0, len(base), rows):
        block = normalize(np.array(base[begin : begin + rows], np.float32))
        scores = queries @ block.T
        if len(block) > k:
            top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        else:
            top = np.tile(np.arange(len(block)), (len(queries), 1))
        best = np.concatenate([best, np.take_along_axis(scores, top, 1)], axis=1)
        ids = np.concatenate([ids, top + begin], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :k]
        best, ids = (np.take_along_axis(x, order, 1) for x in (best, ids))
    return ids.astype("<i4")


def read_real(path):
    """The matrix at path: a file, or base.npy or vectors.npy of a folder."""
    path = pathlib.Path(path)
    if path.is_dir():
        names = [path / "base.npy", path / "vectors.npy"]
        found = [name for name in names if name.exists()]
        if not found:
            raise ValueError(f"{path}: neither base.npy nor vectors.npy in it")
        path = found[0]
    return loaders.load(path)


def write_dataset(real, n, dim, output, queries=1000, k=100, seed=2026):
    """Writes the three files to the folder `output`, made if missing."""
    mixture = Mixture(read_real(real), dim, seed)
    rng = np.random.default_rng(seed + 1)
    output = pathlib.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    base = np.lib.format.open_memmap(output / "base.npy", "w+", np.float16, (n, dim))
    asked = np.empty((queries, dim), np.float16)
    # Families end with their block: rows go to random places in the file, and
    # each block gives its share of the queries.
    place = rng.permutation(n)
    total = n + queries
    done = taken = 0
    for begin in range(0, total, BLOCK_ROWS):
        rows = mixture.sample(rng, min(BLOCK_ROWS, total - begin)).astype(np.float16)
        share = (begin + len(rows)) * queries // total - taken
        asked[taken : taken + share] = rows[:share]
        rows = rows[share:]
        base[place[done : done + len(rows)]] = rows
        done, taken = done + len(rows), taken + share
    base.flush()
    loaders.write_npy(output / "queries.npy", asked[rng.permutation(queries)])
    asked = loaders.load(output / "queries.npy")
    loaders.write_vecs(output / "neighbors.ivecs", nearest(base, asked, k))


def main():
    parser = arguments.maker_parser(__doc__, "real", type=pathlib.Path,
                                    help="embeddings to be like")
    try:
        write_dataset(**vars(parser.parse_args()))
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
