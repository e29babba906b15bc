// Documents, tiles and masks of attention; cuda/attention.cu says how the work is divided.
#pragma once
#include "mma.cuh"

// What every kernel of attention is told. Lengths are cumulative, [documents + 1].
#define ATTENTION_SHAPE                                                                                                        \
  const i64 *query_offsets, const i64 *key_offsets, i64 query_rows, i64 key_rows, int documents, int group, int width, float scale, \
      int left, int right
#define ATTENTION_SHAPE_VALUES {query_offsets, key_offsets, query_rows, key_rows, documents, group, width, scale, left, right}

struct Shape {
  const i64 *query_offsets, *key_offsets;
  i64 query_rows, key_rows;
  int documents, group, width;
  float scale;
  // How far a query sees back and ahead of its position.
  int left, right;
};

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

__device__ __forceinline__ i64 clamp(i64 value, i64 least, i64 most) { return value < least ? least : value > most ? most : value; }

// A buffer of rows with heads.
template <class T> struct Heads {
  T *start;
  i64 row, head;
  __device__ __forceinline__ T *at(i64 r, int h) const { return start + r * row + h * head; }
  // Whether each head of each row begins at a multiple of `bytes`.
  __device__ __forceinline__ bool aligned(int bytes) const {
    return ((reinterpret_cast<u64>(start) | static_cast<u64>(row * sizeof(T)) | static_cast<u64>(head * sizeof(T))) & (bytes - 1)) == 0;
  }
};

struct Document {
  i64 query_start, key_start;
  int queries, keys;
};

__device__ __forceinline__ Document document_at(const Shape &shape, int number) {
  const i64 query = clamp(shape.query_offsets[number], 0, shape.query_rows);
  const i64 query_end = clamp(shape.query_offsets[number + 1], query, shape.query_rows);
  const i64 key = clamp(shape.key_offsets[number], 0, shape.key_rows);
  const i64 key_end = clamp(shape.key_offsets[number + 1], key, shape.key_rows);
  return {query, key, static_cast<int>(query_end - query), static_cast<int>(key_end - key)};
}

// Tiles of `size` items, `times` of which a row has, are numbered so that nobody need count those of the documents before: those of
// document d begin at number offsets[d] * times / size + d. From there to the next document are at least as many numbers as
// the document has tiles, and at most one more, whose tile is empty.
struct Numbering {
  const i64 *offsets;
  i64 rows;
  int documents, times, size;
  __device__ __forceinline__ i64 first(int document) const { return clamp(offsets[document], 0, rows) * times / size + document; }
};

// The document of a tile's number. All lanes of a warp call this together; each looks at one of 32 documents at a time.
__device__ __forceinline__ int find_document(const Numbering &numbering, i64 number) {
  int low = 0, high = numbering.documents - 1;
  while (low < high) {
    const int step = (high - low + WARP) / WARP, candidate = low + static_cast<int>(threadIdx.x % WARP) * step;
    const bool before = candidate <= high && numbering.first(candidate) <= number;
    const u32 votes = __ballot_sync(FULL_MASK, before);
    const int last = votes == 0 ? 0 : 31 - __clz(static_cast<int>(votes));
    low += last * step;
    high = min(high, low + step - 1);
  }
  return low;
}

// The keys that a query sees: from x on, before y. Neither falls from a query to the next.
__device__ __forceinline__ int2 visible(const Shape &shape, const Document &document, int query) {
  const i64 position = static_cast<i64>(query) + document.keys - document.queries;
  const int end = static_cast<int>(clamp(position + shape.right + 1, 0, document.keys));
  return make_int2(static_cast<int>(clamp(position - shape.left, 0, end)), end);
}

// The queries that see any of the keys from `first` on, before `last`; for a key of a document with queries and keys.
__device__ __forceinline__ int2 watchers(const Shape &shape, const Document &document, int first, int last) {
  const i64 offset = static_cast<i64>(document.keys) - document.queries;
  const int end = static_cast<int>(clamp(static_cast<i64>(last) + shape.left - offset, 0, document.queries));
  return make_int2(static_cast<int>(clamp(static_cast<i64>(first) - shape.right - offset, 0, end)), end);
}

// A lane is a query of one head. Heads that share a key head are lanes beside each other, so that keys are read once for all.
struct Place {
  i64 row;
  int head;
};
__device__ __forceinline__ Place place(const Shape &shape, const Document &document, int key_head, int lane) {
  return {document.query_start + lane / shape.group, key_head * shape.group + lane % shape.group};
}

// The rows of a tile of keys, or of values, that begins at key `first` of the document: a null pointer beyond its last.
template <class T> struct KeyRows {
  const Heads<const T> &from;
  const Document &document;
  int head, first;
  __device__ __forceinline__ const T *operator()(int i) const {
    return first + i < document.keys ? from.at(document.key_start + first + i, head) : nullptr;
  }
};

// The rows of a tile of lanes that begins at lane `first` of the document: a null pointer beyond its last.
template <class T> struct LaneRows {
  const Heads<const T> &from;
  const Shape &shape;
  const Document &document;
  int key_head, first;
  __device__ __forceinline__ const T *operator()(int i) const {
    if (first + i >= document.queries * shape.group) return nullptr;
    const Place at = place(shape, document, key_head, first + i);
    return from.at(at.row, at.head);
  }
};

// What a lane sees; a lane beyond the last sees nothing.
__device__ __forceinline__ int2 lane_sight(const Shape &shape, const Document &document, int lane) {
  return lane < document.queries * shape.group ? visible(shape, document, lane / shape.group) : make_int2(0, 0);
}
__device__ __forceinline__ bool sees(int2 sight, int key) { return sight.x <= key && key < sight.y; }

// Σ d_o ⊙ o of each query and head, `[rows, heads]`: a warp for each.
template <class T> __device__ __forceinline__ void products(Heads<const T> o, Heads<const T> d_o, float *sums, i64 rows, int heads, int width) {
  const i64 number = static_cast<i64>(blockIdx.x) * (blockDim.x / WARP) + threadIdx.x / WARP;
  if (number >= rows * heads) return;
  const T *result = o.at(number / heads, static_cast<int>(number % heads)), *gradient = d_o.at(number / heads, static_cast<int>(number % heads));
  float sum = 0.f;
  for (int i = threadIdx.x % WARP; i < width; i += WARP) sum += to_f32(result[i]) * to_f32(gradient[i]);
  sum = warp_reduce<Sum>(sum);
  if (threadIdx.x % WARP == 0) sums[number] = sum;
}
