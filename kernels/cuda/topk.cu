// The k rows of an index that agree best with each query.
//
// A tile of rows is multiplied with a block of queries, which gives scores [queries, rows]. topk_select then takes for each query and
// each range of rows the k best in shared memory: only scores that beat the worst place so far, of the state and of the range, are
// collected, and a full collection is sorted and joined with the best of the range. topk_merge joins the ranges with the state, one
// after the other.
//
// All scores of one product are chains of fused multiplications in the order of the row's elements, or of tensor-core products in
// that order. So a score does not depend on the tile or on its place in it.
#include "mma.cuh"

constexpr int THREADS = 256;
// Scores that are collected before they are sorted, and the most rows that are kept.
constexpr int COLLECTED = 1024;
// The row of a place that no row has taken.
constexpr i64 NO_ROW = 0x7fffffffffffffffLL;

// Scores as whole numbers of the same order. 0 is below all, and is an empty place. A negative zero counts as a zero.
__device__ __forceinline__ u32 ordered(float score) {
  const u32 bits = __float_as_uint(score + 0.f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float score_of(u32 ordered) {
  if (ordered == 0) return -infinity();
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

// A row of a tile with its score: the larger number ranks first.
__device__ __forceinline__ u64 key_of(float score, u32 row) { return static_cast<u64>(ordered(score)) << 32 | static_cast<u32>(~row); }

// COUNT elements that follow one another, as single precision; beyond the end zeros.
template <int COUNT, class T> __device__ __forceinline__ void load_some(const T *row, int start, int width, bool aligned, float (&to)[COUNT]) {
  struct alignas(COUNT * sizeof(T)) Some {
    T values[COUNT];
  };
  if (aligned && start + COUNT <= width) {
    const Some some = *reinterpret_cast<const Some *>(row + start);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) to[i] = to_f32(some.values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) to[i] = start + i < width ? to_f32(row[start + i]) : 0.f;
  }
}

// 128 rows by 128 queries, eight by eight for each thread: two groups of four in each direction, so that threads side by side read
// shared memory side by side. While a step of k is multiplied the next one is on its way to registers.
template <class T>
__device__ __forceinline__ void many_queries(const T *rows, const float *queries, float *scores, i64 row_count, int query_count, int width) {
  constexpr int TILE = 128, DEPTH = 8, STRIDE = TILE + 4, COUNT = 4;
  SHARED(float, left, DEPTH * STRIDE);
  SHARED(float, right, DEPTH * STRIDE);
  const int thread = threadIdx.x, own_row = thread / 2, own_k = thread % 2 * COUNT;
  const i64 first_row = static_cast<i64>(blockIdx.x) * TILE;
  const int first_query = blockIdx.y * TILE;
  // Rows and queries beyond the last are the last ones, and what comes of them is left out.
  const i64 row = first_row + own_row < row_count ? first_row + own_row : row_count - 1;
  const int query = first_query + own_row < query_count ? first_query + own_row : query_count - 1;
  const T *from_row = rows + row * width;
  const float *from_query = queries + static_cast<i64>(query) * width;
  const bool aligned = is_aligned(rows) && is_aligned(queries) && width % COUNT == 0;
  const int of_rows = thread / 16 * 4, of_queries = thread % 16 * 4;
  float sums[8][8] = {}, next_left[COUNT], next_right[COUNT];
  load_some(from_row, own_k, width, aligned, next_left);
  load_some(from_query, own_k, width, aligned, next_right);
  for (int start = 0; start < width; start += DEPTH) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      left[(own_k + i) * STRIDE + own_row] = next_left[i];
      right[(own_k + i) * STRIDE + own_row] = next_right[i];
    }
    __syncthreads();
    if (start + DEPTH < width) {
      load_some(from_row, start + DEPTH + own_k, width, aligned, next_left);
      load_some(from_query, start + DEPTH + own_k, width, aligned, next_right);
    }
#pragma unroll
    for (int k = 0; k < DEPTH; ++k) {
      float a[8], b[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        a[i] = left[k * STRIDE + i / 4 * 64 + of_rows + i % 4];
        b[i] = right[k * STRIDE + i / 4 * 64 + of_queries + i % 4];
      }
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) sums[i][j] = __fmaf_rn(a[i], b[j], sums[i][j]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const int query = first_query + j / 4 * 64 + of_queries + j % 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const i64 row = first_row + i / 4 * 64 + of_rows + i % 4;
      if (query < query_count && row < row_count) scores[query * row_count + row] = sums[i][j];
    }
  }
}

// 256 rows by 8 queries, a row for each thread: reading rows is what takes time. A row of shared memory has one element more than it
// needs, so that threads that read one column meet different banks.
template <class T>
__device__ __forceinline__ void few_queries(const T *rows, const float *queries, float *scores, i64 row_count, int query_count, int width) {
  constexpr int QUERIES = 8, DEPTH = 32, STRIDE = DEPTH + 1, COUNT = Pack<T>::COUNT, PACKS = DEPTH / COUNT;
  SHARED(float, left, THREADS * STRIDE);
  SHARED(float, right, DEPTH * QUERIES);
  const int thread = threadIdx.x;
  const i64 first_row = static_cast<i64>(blockIdx.x) * THREADS;
  const int first_query = blockIdx.y * QUERIES;
  const bool aligned = is_aligned(rows) && width % COUNT == 0;
  const int own_query = first_query + thread % QUERIES, own_k = thread / QUERIES;
  float sums[QUERIES] = {};
  for (int start = 0; start < width; start += DEPTH) {
#pragma unroll
    for (int i = 0; i < PACKS; ++i) {
      const int at = i * THREADS + thread, row = at / PACKS, k = at % PACKS * COUNT;
      const i64 from = first_row + row < row_count ? first_row + row : row_count - 1;
      float values[COUNT];
      load_pack(rows + from * width, start + k, width, aligned, values, 0.f);
#pragma unroll
      for (int j = 0; j < COUNT; ++j) left[row * STRIDE + k + j] = values[j];
    }
    const bool there = own_query < query_count && start + own_k < width;
    right[own_k * QUERIES + thread % QUERIES] = there ? queries[static_cast<i64>(own_query) * width + start + own_k] : 0.f;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < DEPTH; ++k) {
      const float value = left[thread * STRIDE + k];
      // Zeros of a query that there is not may meet an infinity; those sums are left out.
#pragma unroll
      for (int j = 0; j < QUERIES; ++j) sums[j] = __fmaf_rn(value, right[k * QUERIES + j], sums[j]);
    }
    __syncthreads();
  }
  const i64 row = first_row + thread;
  if (row >= row_count) return;
#pragma unroll
  for (int j = 0; j < QUERIES; ++j)
    if (first_query + j < query_count) scores[(first_query + j) * row_count + row] = sums[j];
}

// 128 rows by 128 queries on tensor cores: two by four warps of 64 rows by 32 queries, two steps of k in shared memory.
template <class T> __device__ __forceinline__ void same_type(const T *rows, const T *queries, float *scores, i64 row_count, int query_count, int width) {
  constexpr int TILE = 128, DEPTH = 32, STRIDE = DEPTH + 8, COUNT = Pack<T>::COUNT, PACKS = DEPTH / COUNT, STEP = TILE * STRIDE;
  SHARED(T, left, 2 * STEP);
  SHARED(T, right, 2 * STEP);
  const int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP;
  const i64 first_row = static_cast<i64>(blockIdx.x) * TILE;
  const int first_query = blockIdx.y * TILE;
  const bool aligned = is_aligned(rows) && is_aligned(queries) && width % COUNT == 0;
  const auto fetch = [&](int start, int buffer) {
#pragma unroll
    for (int i = 0; i < TILE * PACKS / THREADS; ++i) {
      const int at = i * THREADS + thread, place = at / PACKS, k = at % PACKS * COUNT, to = buffer * STEP + place * STRIDE + k;
      const i64 row = first_row + place < row_count ? first_row + place : row_count - 1;
      const int query = first_query + place < query_count ? first_query + place : query_count - 1;
      const T *from_row = rows + row * width, *from_query = queries + static_cast<i64>(query) * width;
      const int left_over = width - start - k;
      if (aligned) {
        const int valid = left_over < 0 ? 0 : left_over < COUNT ? left_over : COUNT;
        const int offset = valid ? start + k : 0;
        copy_async(left + to, from_row + offset, valid);
        copy_async(right + to, from_query + offset, valid);
      } else {
        for (int j = 0; j < COUNT; ++j) {
          left[to + j] = j < left_over ? from_row[start + k + j] : from_f32<T>(0.f);
          right[to + j] = j < left_over ? from_query[start + k + j] : from_f32<T>(0.f);
        }
      }
    }
    copies_commit();
  };
  const int warp_row = warp / 4 * 64, warp_query = warp % 4 * 32;
  FragmentC sums[4][4] = {};
  fetch(0, 0);
  for (int start = 0, buffer = 0; start < width; start += DEPTH, buffer ^= 1) {
    copies_wait<0>();
    __syncthreads();
    // The other buffer was last read before the barrier.
    if (start + DEPTH < width) fetch(start + DEPTH, buffer ^ 1);
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16) {
      FragmentA<T> a[4];
      FragmentB<T> b[2][2];
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = load_left<T>(left + (buffer * STEP + (warp_row + 16 * i) * STRIDE + k), Rows{STRIDE});
#pragma unroll
      for (int j = 0; j < 2; ++j) load_right<T>(b[j], right + (buffer * STEP + (warp_query + 16 * j) * STRIDE + k), Rows{STRIDE});
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) mma(sums[i][j], a[i], b[j / 2][j % 2]);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int value = 0; value < 4; ++value) {
        const i64 row = first_row + warp_row + 16 * i + lane / 4 + value / 2 * 8;
        const int query = first_query + warp_query + 8 * j + lane % 4 * 2 + value % 2;
        if (row < row_count && query < query_count) scores[query * row_count + row] = sums[i][j].values[value];
      }
}

#define SCORES(suffix, T)                                                                                                        \
  KERNEL(256, topk_many_##suffix, const T *rows, const float *queries, float *scores, i64 row_count, int query_count, int width) { \
    many_queries<T>(rows, queries, scores, row_count, query_count, width);                                                       \
  }                                                                                                                              \
  KERNEL(256, topk_few_##suffix, const T *rows, const float *queries, float *scores, i64 row_count, int query_count, int width) { \
    few_queries<T>(rows, queries, scores, row_count, query_count, width);                                                        \
  }

SCORES(f32, float)
SCORES(bf16, bf16)
SCORES(f16, f16)

KERNEL(256, topk_same_bf16, const bf16 *rows, const bf16 *queries, float *scores, i64 row_count, int query_count, int width) {
  same_type<bf16>(rows, queries, scores, row_count, query_count, width);
}
KERNEL(256, topk_same_f16, const f16 *rows, const f16 *queries, float *scores, i64 row_count, int query_count, int width) {
  same_type<f16>(rows, queries, scores, row_count, query_count, width);
}

// One stage of a bitonic network over `length` keys, a power of two: pairs `distance` apart, falling where `falling` says so.
template <class Falling> __device__ __forceinline__ void stage(SharedPtr<u64> keys, int length, int distance, Falling falling) {
  for (int i = threadIdx.x; i < length / 2; i += THREADS) {
    const int first = 2 * i - (i & (distance - 1)), second = first + distance;
    const u64 a = keys[first], b = keys[second];
    if (a != b && (a < b) == falling(first)) {
      keys[first] = b;
      keys[second] = a;
    }
  }
  __syncthreads();
}

// Sorts the `count` collected keys, and leaves in `best`, which falls, the best `places` of both. Both have powers of two of places.
__device__ __forceinline__ void join(SharedPtr<u64> best, int places, SharedPtr<u64> collected, int count) {
  int length = places;
  while (length < count) length *= 2;
  for (int i = count + threadIdx.x; i < length; i += THREADS) collected[i] = 0;
  __syncthreads();
  for (int size = 2; size <= length; size *= 2)
    for (int distance = size / 2; distance > 0; distance /= 2)
      stage(collected, length, distance, [&](int i) { return (i & size) == 0; });
  // Of a falling and a rising sequence side by side the larger ones are the best of both, in bitonic order.
  for (int i = threadIdx.x; i < places; i += THREADS) {
    const u64 a = best[i], b = collected[places - 1 - i];
    best[i] = a > b ? a : b;
  }
  __syncthreads();
  for (int distance = places / 2; distance > 0; distance /= 2) stage(best, places, distance, [](int) { return true; });
}

// For each query (blockIdx.y) and range of rows (blockIdx.x) the k best that are better than the worst place of the state, as
// keys [queries, ranges, k], and how many scores are not numbers [queries, ranges].
KERNEL(256, topk_select, const float *scores, const float *state_scores, const i64 *state_rows, i64 *keys, i64 *not_numbers, i64 row_count,
       i64 first_row, int k, int places, int range_rows) {
  SHARED(u64, best, COLLECTED);
  SHARED(u64, collected, COLLECTED);
  SHARED(int, counts, THREADS / WARP);
  const i64 query = blockIdx.y, ranges = gridDim.x, range = blockIdx.x;
  const int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP;
  const i64 begin = range * range_rows, end = begin + range_rows < row_count ? begin + range_rows : row_count;
  // Of rows with the score of the worst place those with a smaller number are better. Numbers count from the tile's first.
  const i64 worst = query * k + k - 1;
  const i64 distance = state_rows[worst] == NO_ROW ? 0xffffffffLL : state_rows[worst] - first_row;
  const u32 limit = distance < 0 ? 0u : distance > 0xffffffffLL ? 0xffffffffu : static_cast<u32>(distance);
  u64 floor = key_of(state_scores[worst], limit);
  for (int i = thread; i < places; i += THREADS) best[i] = 0;
  int count = 0;
  i64 lost = 0;
  for (i64 start = begin; start < end; start += THREADS) {
    const i64 row = start + thread;
    const float score = row < end ? scores[query * row_count + row] : -infinity();
    const u64 key = key_of(score, static_cast<u32>(row));
    const bool number = score == score, taken = row < end && number && key > floor;
    const u32 lanes = __ballot_sync(FULL_MASK, taken);
    lost += __popc(__ballot_sync(FULL_MASK, !number));
    if (lane == 0) counts[warp] = __popc(lanes);
    __syncthreads();
    int place = count + __popc(lanes & ((1u << lane) - 1));
    for (int i = 0; i < THREADS / WARP; ++i) {
      const int others = counts[i];
      if (i < warp) place += others;
      count += others;
    }
    if (taken) collected[place] = key;
    // Before the counts are written again, and before what was collected is read.
    __syncthreads();
    if (count > COLLECTED - THREADS) {
      join(best, places, collected, count);
      count = 0;
      const u64 last = best[k - 1];
      floor = last > floor ? last : floor;
    }
  }
  if (count > 0) join(best, places, collected, count);
  if (lane == 0) counts[warp] = static_cast<int>(lost);
  __syncthreads();
  for (int i = thread; i < k; i += THREADS) keys[(query * ranges + range) * k + i] = static_cast<i64>(static_cast<u64>(best[i]));
  if (thread == 0) {
    i64 total = 0;
    for (int i = 0; i < THREADS / WARP; ++i) total += counts[i];
    not_numbers[query * ranges + range] = total;
  }
}

// The state of a query in shared memory, and the entries to be joined with it.
struct Entries {
  SharedPtr<u32> scores;
  SharedPtr<i64> rows;
  __device__ __forceinline__ bool before(int a, int b) const {
    const u32 first = scores[a], second = scores[b];
    return first > second || (first == second && static_cast<i64>(rows[a]) < static_cast<i64>(rows[b]));
  }
};

// Joins the entries from `places` on, which fall, with those before, so that the best of both are there, falling.
__device__ __forceinline__ void join_entries(const Entries &entries, int places) {
  __syncthreads();
  for (int i = threadIdx.x; i < places; i += THREADS) {
    const int other = 2 * places - 1 - i;
    if (entries.before(other, i)) {
      const u32 score = entries.scores[other];
      const i64 row = entries.rows[other];
      entries.scores[i] = score;
      entries.rows[i] = row;
    }
  }
  __syncthreads();
  for (int distance = places / 2; distance > 0; distance /= 2) {
    for (int i = threadIdx.x; i < places / 2; i += THREADS) {
      const int first = 2 * i - (i & (distance - 1)), second = first + distance;
      if (entries.before(second, first)) {
        const u32 score = entries.scores[first], other_score = entries.scores[second];
        const i64 row = entries.rows[first], other_row = entries.rows[second];
        entries.scores[first] = other_score;
        entries.rows[first] = other_row;
        entries.scores[second] = score;
        entries.rows[second] = row;
      }
    }
    __syncthreads();
  }
}

__device__ __forceinline__ void load_state(const Entries &entries, const float *scores, const i64 *rows, int k, int places, int offset) {
  for (int i = threadIdx.x; i < places; i += THREADS) {
    const bool there = i < k && rows[i] != NO_ROW;
    entries.scores[offset + i] = there ? ordered(scores[i]) : 0u;
    entries.rows[offset + i] = there ? rows[i] : NO_ROW;
  }
}

__device__ __forceinline__ void store_state(const Entries &entries, float *scores, i64 *rows, int k) {
  for (int i = threadIdx.x; i < k; i += THREADS) {
    scores[i] = score_of(entries.scores[i]);
    rows[i] = entries.rows[i];
  }
}

// Joins the ranges of each query (blockIdx.x) with its state. `totals` may be left out.
KERNEL(256, topk_merge, const i64 *keys, const i64 *not_numbers, float *state_scores, i64 *state_rows, i64 *totals, i64 first_row, int k,
       int places, int ranges) {
  SHARED(u32, entry_scores, 2 * COLLECTED);
  SHARED(i64, entry_rows, 2 * COLLECTED);
  const Entries entries{entry_scores, entry_rows};
  const i64 query = blockIdx.x;
  load_state(entries, state_scores + query * k, state_rows + query * k, k, places, 0);
  for (int range = 0; range < ranges; ++range) {
    const i64 *list = keys + (query * ranges + range) * k;
    // The same for all threads: the range has nothing.
    if (list[0] == 0) continue;
    for (int i = threadIdx.x; i < places; i += THREADS) {
      const u64 key = i < k ? static_cast<u64>(list[i]) : 0;
      entry_scores[places + i] = static_cast<u32>(key >> 32);
      entry_rows[places + i] = key ? first_row + static_cast<u32>(~static_cast<u32>(key)) : NO_ROW;
    }
    join_entries(entries, places);
  }
  store_state(entries, state_scores + query * k, state_rows + query * k, k);
  if (totals && threadIdx.x == 0) {
    i64 total = totals[query];
    for (int range = 0; range < ranges; ++range) total += not_numbers[query * ranges + range];
    totals[query] = total;
  }
}

// Joins another state with the state of each query (blockIdx.x). Both counts may be left out.
KERNEL(256, topk_join, const float *other_scores, const i64 *other_rows, const i64 *other_totals, float *state_scores, i64 *state_rows,
       i64 *totals, int k, int places) {
  SHARED(u32, entry_scores, 2 * COLLECTED);
  SHARED(i64, entry_rows, 2 * COLLECTED);
  const Entries entries{entry_scores, entry_rows};
  const i64 query = blockIdx.x;
  load_state(entries, state_scores + query * k, state_rows + query * k, k, places, 0);
  load_state(entries, other_scores + query * k, other_rows + query * k, k, places, places);
  join_entries(entries, places);
  store_state(entries, state_scores + query * k, state_rows + query * k, k);
  if (totals && other_totals && threadIdx.x == 0) totals[query] += other_totals[query];
}

// A state without rows.
KERNEL(256, topk_clear, float *state_scores, i64 *state_rows, i64 *totals, i64 count, i64 queries) {
  const i64 at = static_cast<i64>(blockIdx.x) * THREADS + threadIdx.x;
  if (at < count) {
    state_scores[at] = -infinity();
    state_rows[at] = NO_ROW;
  }
  if (totals && at < queries) totals[at] = 0;
}
