"""What a kernel is told: the fields of its descriptor, and where it finds things by them."""

from numba.core import types
from numba.types import UniTuple

from .compile import routine
from .lanes.memory import load_i32, load_i64
from .lanes.reduction import SHUFFLE_BYTES, cell_bytes, lane_count

# Fields of the descriptor, an array of int64 that the launcher fills. *_AT are addresses, *_STEP are bytes.
(
    BASE_AT,  # what the addresses in the table of maps are relative to
    BATCH_STEP,  # from one map to the next
    MAPS_AT,  # per map: address, height, width, channel step, row step, column step
    MAPS_STEP,  # 0 where all maps lie alike
    CHANNELS,
    BLOCKS,  # channel blocks of a map
    CHUNKS,  # parts that the windows of a map are divided into
    STARTS_AT,  # per map (and one more): where its windows begin in the order; 0: each map is one window
    ROWS_AT,  # per window, ordered by map: its row in the result and in the edges; 0: they are in order
    EDGES_AT,  # per row, int32: start and stop of the window, then as the table of levels says; along y, then along x
    EDGES_STEP,
    X_EDGES_BEHIND,  # bytes from the edges along y to those along x
    LEVELS_AT,  # per level, finest first: see `ROWS`
    LEVELS,
    MAY_BE_EMPTY,  # whether there are bins without cells
    OUT_AT,
    OUT_STEP,
    INDEX_AT,
    INDEX_STEP,
    STREAM,  # how a result is written that leaves the caches, see `PAST_CACHES`; 0: it stays there
    POWERS_AT,  # per row: the blocks or runs that its bins are made of, see `order`; 0: none
    SHARED,  # whether the tile holds the whole map for all windows, or parts of one window's cells
    TILE_CELLS,  # what the tile holds
    MORE_BYTES,  # between the tile and the bins: a widened tile, runs, or patches
    ROW_CELLS,  # of a window, from which on it is summed by rows; 0: none is
    ROW_MAP_CELLS,  # of a map whose windows are
    BINS,  # of all levels, and as many as transposed blocks may read past the last
    SCRATCH_AT,
    SCRATCH_STEP,
    WINDOWS_AT,  # per row, float64, for taps: start and extent along y, start and extent along x, in cells
    SAMPLING,  # samples of a bin along an axis, 0: one for each cell that it is wide; -1: the cells between edges
    WINDOWS,
    MAP_NUMBERS_AT,  # per row: its map
    TABLE_AT,  # of taps, see `taps`
    RECORDS_AT,  # per row, level and axis, and one more: where its record begins in the table
    GRAD_AT,  # gradients of the result
    GRAD_STEP,
    GRAD_CHANNELS,  # of maxima they are of so many channels, of which the indices may be some
    GRAD_CHANNEL,  # from this one on
    GRAD_ROWS_AT,  # per row: its row of gradients; 0: the same
    WHAT,  # is scattered, see `scatter`
    GROUP,  # channels of a task: channel blocks, or some of one
    LEAD,  # channels that all groups but the first begin earlier
    AT_ONCE,  # whether cells are summed row by row, in all of a task's channel blocks
    LINES,  # rows of bins of all levels
    STATUS_AT,  # int64: 0, or one more than a row with an index outside its map
    BANDS,  # of rows that a map is divided into, at most
    BAND_CELLS,  # at least
    RAW_BAND_CELLS,  # where a cell's channels lie side by side, and fill a block
    BANDS_AT,  # bins of each map, task's channels and band; 0: a task does all bands of its map
    BANDS_STEP,  # from one band to the next
    MERGE,  # whether bands are made whole now, not reduced
    AREAS,  # bytes of the table of areas that is made of the tile, for sums, and of its bounds; 0: none
    FIELDS,
) = range(54)
SHARED_WAY, ROWS_WAY, PARTS_WAY, RAW_WAY = "shared", "rows", "parts", "raw"
# A row of the table of levels: rows, columns, first bin in the result; where its row edges and its column edges are
# (starts, then stops); the finer level whose bins its bins are unions of, or -1; how many of its rows and columns.
ROWS, COLUMNS, FIRST, Y_EDGES, X_EDGES, FINER, TALL, WIDE = range(8)
LEVEL_BYTES = 64
# Of `STREAM`: past the caches at once, or a line at a time beside other work; or into lines that are fetched beside it.
PAST_CACHES, BESIDE, FETCHED = 1, 2, 3
STAGED_BYTES = 512  # of a channel
STAGING_BYTES = 2 * SHUFFLE_BYTES * STAGED_BYTES + SHUFFLE_BYTES  # of as many as 8 bits transpose, and what is behind
POWER = 32  # the powers of two of a block of cells, in one number
EVERYTHING = (-(2**31), 2**31, -(2**31), 2**31)  # a box, that is rows from and to, columns from and to


@routine(types.int64)
def row_at(desc, i):
    """Find the row of the window that is the i-th in the order."""
    rows = load_i64(desc, ROWS_AT)
    return load_i64(rows, i) if rows else i


@routine(UniTuple(types.int64, 2))
def windows_of(desc, number, chunk):
    """Find where a chunk of the windows of a map begins and ends in the order."""
    ordered, chunks = load_i64(desc, STARTS_AT), load_i64(desc, CHUNKS)
    if ordered == 0:
        return number, number + 1
    first, last = load_i64(ordered, number), load_i64(ordered, number + 1)
    return first + (last - first) * chunk // chunks, first + (last - first) * (chunk + 1) // chunks


@routine(UniTuple(types.int64, 2))
def map_of(desc, number):
    """Find a map in the table of maps, and its address."""
    map_ = load_i64(desc, MAPS_AT) + number * load_i64(desc, MAPS_STEP)
    return map_, load_i64(desc, BASE_AT) + number * load_i64(desc, BATCH_STEP) + load_i64(map_, 0)


@routine(UniTuple(types.int64, 2))
def edges_of(desc, row):
    """Find the edges of a window along y and x."""
    y_edges = load_i64(desc, EDGES_AT) + row * load_i64(desc, EDGES_STEP)
    return y_edges, y_edges + load_i64(desc, X_EDGES_BEHIND)


@routine(UniTuple(types.int64, 4))
def grid_at(level, y_edges, x_edges):
    """Find the rows and columns of bins of a level, and where their edges along y and x are: starts, then stops."""
    y_places, x_places = y_edges + 4 * load_i64(level, Y_EDGES), x_edges + 4 * load_i64(level, X_EDGES)
    return load_i64(level, ROWS), load_i64(level, COLUMNS), y_places, x_places


@routine(types.int64)
def scratch_at(desc, worker):
    """Find a worker's memory."""
    return load_i64(desc, SCRATCH_AT) + worker * load_i64(desc, SCRATCH_STEP)


@routine(types.int64)
def staging_at(desc, tile):
    """Find the last of a worker's memory, which begins with its tile: where cells are staged, see `pack`."""
    return tile + load_i64(desc, SCRATCH_STEP) - STAGING_BYTES


@routine(UniTuple(types.int64, 3))
def scratch_of(desc, worker, t):
    """Find a worker's tile, what is behind that, and its bins."""
    tile = scratch_at(desc, worker)
    more = tile + load_i64(desc, TILE_CELLS) * cell_bytes(t)
    return tile, more, more + load_i64(desc, MORE_BYTES)


@routine(UniTuple(types.int64, 2))
def channels_of(desc, group, t):
    """Find the first channel of a group, and how many blocks it has."""
    channel = max(group * load_i64(desc, GROUP) - load_i64(desc, LEAD), 0)
    return channel, -(-min(load_i64(desc, GROUP), load_i64(desc, CHANNELS) - channel) // lane_count(t))


@routine(types.boolean, only=lambda t: t.mode == "avg")
def lies_outside(box, top, bottom, left, right, t):
    """Tell whether a bin, or a patch, does not lie in the box whose bins are summed: its mean is known already."""
    y0, y1, x0, x1 = box
    return top < y0 or bottom > y1 or left < x0 or right > x1


@routine(types.int64)
def count_cells(y_edges, x_edges):
    """Count the cells of a window."""
    return (load_i32(y_edges, 1) - load_i32(y_edges, 0)) * (load_i32(x_edges, 1) - load_i32(x_edges, 0))
