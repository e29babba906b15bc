// Many byte patterns in many texts that lie one behind another: values and offsets, as Arrow has its strings.
//
// The bytes are divided into tiles without regard to texts, so that one text of a gigabyte and millions of short ones are the same
// work. A warp has a tile, a lane a strip of 64 bytes in it. Every position is asked one question, by one access to a filter in shared
// memory: can the four bytes here be the window by which some pattern is known? Where the answer is "perhaps", a hash table leads
// from the window to patterns, and their bytes are compared. Only an occurrence asks for the text that it lies in. src/scan/table.rs
// makes the tables and says how they lie in memory.
//
// What is found by which lane follows from the position alone. Counts are sums, sets do not depend on the order of insertion, and
// a list is written to places that come from sums of counts: nothing depends on the order in which lanes come.
#include "common.cuh"

namespace {

using u8 = unsigned char;

// Bytes of a tile and of a strip, and tiles that a block has at a time.
constexpr int TILE = 2048, STRIP = TILE / WARP, TILES = 8;
constexpr int WORDS = STRIP / 4;
// Bit 5 of each byte, which tells upper from lower case.
constexpr u32 CASE = 0x20202020u;
// Odd multipliers, for places and for bits in them.
constexpr u32 HASH = 0x9e3779b1u, BITS = 0x85ebca6bu;
// Words of the table of pairs of bytes.
constexpr int PAIRS = 2048;
// A slot without a pattern.
constexpr u32 EMPTY = 0xffffffffu;
// Patterns of these lengths and more have a window of four bytes; shorter ones are their own.
constexpr int WINDOW = 4;
// Bits of `widths`, which has bit w if a window has w bytes: those that the filter knows, and those that the table of pairs knows.
constexpr int LONG = 24, SHORT = 6;

struct Table {
  const u32 *entries, *heads, *members;
  const u8 *bytes;
  int filter_bits, head_bits, widths;
  bool fold;
};

template <class T> struct Texts {
  const u8 *values;
  const T *offsets;
  // Texts; bytes of `values`; where the first text begins and the last one ends.
  i64 count, bytes, first, last;
};

// Which texts a tile has bytes of.
struct Span {
  i64 low, high;
};

// Offsets that point outside of the values are moved to their ends.
template <class T> __device__ __forceinline__ Texts<T> texts_of(const u8 *values, i64 bytes, const T *offsets, i64 count) {
  i64 first = offsets[0], last = offsets[count];
  first = first < 0 ? 0 : first > bytes ? bytes : first;
  last = last < first ? first : last > bytes ? bytes : last;
  return {values, offsets, count, bytes, first, last};
}

// Tiles begin where an access to 16 bytes may: so many bytes before the values.
__device__ __forceinline__ int skew_of(const u8 *values) { return static_cast<int>(reinterpret_cast<u64>(values) & 15); }

__device__ __forceinline__ int lowest(u64 marks) {
  const u32 low = static_cast<u32>(marks);
  return low ? __ffs(static_cast<int>(low)) - 1 : 31 + __ffs(static_cast<int>(marks >> 32));
}

__device__ __forceinline__ u32 lower(u32 byte) { return byte - 'A' < 26u ? byte | 32u : byte; }

// The last text that begins at or before the position, which is the one that has it. Of texts without bytes none has it.
template <class T> __device__ __forceinline__ i64 text_at(const T *offsets, i64 low, i64 high, i64 position) {
  while (low < high) {
    const i64 middle = (low + high + 1) >> 1;
    if (offsets[middle] <= position) low = middle;
    else high = middle - 1;
  }
  return low;
}

// The character of so many bytes, at most four, or -1 if they are not the UTF-8 of one character.
__device__ __forceinline__ int decode(const u8 *at, int length) {
  const u32 lead = at[0], second = length > 1 ? at[1] : 0u;
  if (length == 1) return lead < 0x80u ? static_cast<int>(lead) : -1;
  for (int i = 1; i < length; ++i)
    if ((at[i] & 0xc0u) != 0x80u) return -1;
  if (length == 2) return lead >= 0xc2u && lead <= 0xdfu ? static_cast<int>((lead & 31u) << 6 | (second & 63u)) : -1;
  if (length == 3) {
    // Neither longer than needed nor one of a pair of surrogates.
    if ((lead & 0xf0u) != 0xe0u || (lead == 0xe0u && second < 0xa0u) || (lead == 0xedu && second > 0x9fu)) return -1;
    return static_cast<int>((lead & 15u) << 12 | (second & 63u) << 6 | (at[2] & 63u));
  }
  if (lead < 0xf0u || lead > 0xf4u || (lead == 0xf0u && second < 0x90u) || (lead == 0xf4u && second > 0x8fu)) return -1;
  return static_cast<int>((lead & 7u) << 18 | (second & 63u) << 12 | (at[2] & 63u) << 6 | (at[3] & 63u));
}

__device__ __forceinline__ bool is_member(const u32 *members, int character) {
  return character >= 0 && (members[character >> 5] >> (character & 31) & 1u);
}

// Whether no member stands right before `start` or right behind `end` in the text from `low` to `high`.
template <class T> __device__ __forceinline__ bool isolated(const u32 *members, const Texts<T> &texts, i64 low, i64 start, i64 end, i64 high) {
  const u8 *const values = texts.values;
  low = low > texts.first ? low : texts.first;
  high = high < texts.last ? high : texts.last;
  if (start > low) {
    int length = 1;
    if (values[start - 1] >= 0x80u) {
      length = 2;
      while (length <= 4 && start - length >= low && (values[start - length] & 0xc0u) == 0x80u) ++length;
    }
    if (length <= 4 && start - length >= low && is_member(members, decode(values + start - length, length))) return false;
  }
  if (end < high) {
    const u32 lead = values[end];
    const int length = lead < 0x80u ? 1 : lead < 0xe0u ? 2 : lead < 0xf0u ? 3 : 4;
    if (end + length <= high && is_member(members, decode(values + end, length))) return false;
  }
  return true;
}

// Hands the patterns to `sink` that are known by the `width` bytes at a position.
template <class T, class Sink>
__device__ __forceinline__ void look_up(const Table &table, const Texts<T> &texts, Span span, i64 position, int width, Sink &sink) {
  if (position + width > texts.last) return;
  u32 key = 0, hashed = 0;
  for (int i = 0; i < width; ++i) {
    const u32 byte = texts.values[position + i];
    key |= (table.fold ? lower(byte) : byte) << (8 * i);
    hashed |= (byte | 32u) << (8 * i);
  }
  const u32 bucket = hashed * HASH >> (32 - table.head_bits);
  const u32 end_of_bucket = table.heads[bucket + 1];
  for (u32 number = table.heads[bucket]; number < end_of_bucket; ++number) {
    const u32 *const entry = table.entries + 4 * static_cast<i64>(number);
    if (entry[0] != key) continue;
    const u32 pattern = entry[1], shape = entry[3];
    const int length = static_cast<int>(shape >> 8), offset = static_cast<int>(shape & 255u);
    if ((length < WINDOW ? length : WINDOW) != width) continue;
    const i64 start = position - offset, end = start + length;
    if (start < texts.first || end > texts.last) continue;
    const u8 *const bytes = table.bytes + entry[2];
    bool same = true;
    for (int i = 0; i < length && same; ++i) {
      const u32 byte = texts.values[start + i];
      same = (table.fold ? lower(byte) : byte) == bytes[i];
    }
    if (!same) continue;
    const i64 text = text_at(texts.offsets, span.low, span.high, position);
    const i64 low = texts.offsets[text], high = texts.offsets[text + 1];
    if (start < low || end > high) continue;
    if (table.members && !isolated(table.members, texts, low, start, end, high)) continue;
    sink.found(text, pattern, position, offset);
  }
}

// The bytes of a strip and four more, zeros outside of the values, with bit 5 set in all of them.
__device__ __forceinline__ void load_strip(const u8 *values, i64 bytes, i64 start, u32 (&words)[WORDS + 1]) {
  if (start >= 0 && start + STRIP + 4 <= bytes) {
#pragma unroll
    for (int i = 0; i < WORDS; i += 4) {
      const uint4 four = *reinterpret_cast<const uint4 *>(values + start + 4 * i);
      words[i] = four.x | CASE;
      words[i + 1] = four.y | CASE;
      words[i + 2] = four.z | CASE;
      words[i + 3] = four.w | CASE;
    }
    words[WORDS] = *reinterpret_cast<const u32 *>(values + start + STRIP) | CASE;
  } else {
#pragma unroll
    for (int i = 0; i <= WORDS; ++i) {
      u32 word = 0;
      for (int j = 0; j < 4; ++j) {
        const i64 at = start + 4 * i + j;
        if (at >= 0 && at < bytes) word |= static_cast<u32>(values[at]) << (8 * j);
      }
      words[i] = word | CASE;
    }
  }
}

// Positions of a strip at which a pattern may be known: by a window of three or four bytes, and by one or two bytes.
struct Marks {
  u64 windows, pairs;
};

__device__ __forceinline__ Marks ask(const u32 (&words)[WORDS + 1], SharedPtr<u32> filter, int filter_bits, bool pairs) {
  Marks marks = {0, 0};
  const int shift = 32 - filter_bits;
  const SharedPtr<u32> table = filter + (1 << filter_bits);
#pragma unroll
  for (int i = 0; i < WORDS; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const u32 window = j == 0 ? words[i] : words[i] >> (8 * j) | words[i + 1] << (32 - 8 * j);
      // Three bytes choose the word, all four two bits of it: a window of three bytes has all bits.
      const u32 word = filter[(window * (HASH << 8)) >> shift];
      const u32 bits = window * BITS;
      marks.windows |= static_cast<u64>(word >> (bits >> 27) & word >> (bits >> 22 & 31u) & 1u) << (4 * i + j);
      if (pairs) marks.pairs |= static_cast<u64>(table[window >> 5 & 2047u] >> (window & 31u) & 1u) << (4 * i + j);
    }
  }
  return marks;
}

// Goes through the strip that the lane has in a tile.
template <class T, class Sink>
__device__ __forceinline__ void walk(const Table &table, const Texts<T> &texts, const u32 *map, SharedPtr<u32> filter, i64 tile, Sink &sink) {
  const i64 start = tile * TILE + static_cast<i64>(threadIdx.x % WARP) * STRIP - skew_of(texts.values);
  if (start + STRIP <= texts.first || start >= texts.last) return;
  const Span span = {map[tile], map[tile + 1]};
  if (sink.has_enough(span)) return;
  u32 words[WORDS + 1];
  load_strip(texts.values, texts.bytes, start, words);
  Marks marks = ask(words, filter, table.filter_bits, (table.widths & SHORT) != 0);
  u64 inside = ~0ull;
  if (start < texts.first) inside <<= texts.first - start;
  if (texts.last - start < STRIP) inside &= (1ull << (texts.last - start)) - 1ull;
  for (u64 left = (marks.windows | marks.pairs) & inside; left; left &= left - 1) {
    const int at = lowest(left);
    const int widths = table.widths & ((marks.windows >> at & 1 ? LONG : 0) | (marks.pairs >> at & 1 ? SHORT : 0));
#pragma unroll 1
    for (int width = WINDOW; width > 0; --width)
      if (widths >> width & 1) look_up(table, texts, span, start + at, width, sink);
  }
}

// All threads of the block must call it.
__device__ __forceinline__ void load_filter(const u32 *words, int count, SharedPtr<u32> filter) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) filter[i] = words[i];
  __syncthreads();
}

// How many distinct patterns a text has, up to a limit. A text has as many slots as the limit; each holds another pattern, and they
// are filled from the first one on. Which patterns come first is chance; how many there are is not.
struct Distinct {
  u32 *slots;
  i64 limit;

  // A tile that lies in one text need not be looked at once the text has all it can have.
  __device__ __forceinline__ bool has_enough(Span span) const {
    return span.low == span.high && *static_cast<volatile u32 *>(slots + (span.low + 1) * limit - 1) != EMPTY;
  }
  __device__ __forceinline__ void found(i64 text, u32 pattern, i64, int) const {
    u32 *const own = slots + text * limit;
    for (i64 i = 0; i < limit; ++i) {
      // What is read may be old, but a slot that was filled stays as it is.
      u32 there = *static_cast<volatile u32 *>(own + i);
      if (there == EMPTY) there = atomicCAS(own + i, EMPTY, pattern);
      if (there == EMPTY || there == pattern) return;
    }
  }
};

struct Count {
  u32 count;

  __device__ __forceinline__ bool has_enough(Span) const { return false; }
  __device__ __forceinline__ void found(i64, u32, i64, int) { ++count; }
};

// Occurrences in the order of their windows, each as the window's position and as pattern << 32 | offset of the window.
struct Write {
  i64 *found_at;
  i64 place, capacity;

  __device__ __forceinline__ bool has_enough(Span) const { return false; }
  __device__ __forceinline__ void found(i64, u32 pattern, i64 position, int offset) {
    if (place < capacity) {
      found_at[2 * place] = position;
      found_at[2 * place + 1] = static_cast<i64>(pattern) << 32 | offset;
    }
    ++place;
  }
};

// The sum of a value over the block, in every thread. `scratch` has a place for each warp. All threads must call it.
__device__ __forceinline__ i64 block_sum(i64 value, SharedPtr<i64> scratch) {
#pragma unroll
  for (int offset = WARP / 2; offset > 0; offset >>= 1) value += __shfl_xor_sync(FULL_MASK, value, offset);
  if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = value;
  __syncthreads();
  i64 sum = 0;
  for (int i = 0; i < blockDim.x / WARP; ++i) sum += scratch[i];
  // The next use of `scratch` must not overtake the reads of this one.
  __syncthreads();
  return sum;
}

// The sum over the lanes before this one.
template <class V> __device__ __forceinline__ V sum_before(V value) {
  const int lane = threadIdx.x % WARP;
  V sum = value;
#pragma unroll
  for (int by = 1; by < WARP; by <<= 1) {
    const V other = __shfl_up_sync(FULL_MASK, sum, by);
    if (lane >= by) sum += other;
  }
  return sum - value;
}

// Puts occurrences in order of texts, starts and patterns. They are in the order of their windows, and no window begins more than
// `reach` bytes behind its pattern, so only those nearby can have to change places: each counts them, and knows its place.
template <class T>
__device__ __forceinline__ void order(const u8 *values, const T *offsets, const u32 *map, const i64 *found_at, i64 count, u32 *documents, u32 *patterns,
                                      i64 *starts, int reach) {
  const i64 own = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (own >= count) return;
  const i64 window = found_at[2 * own], code = found_at[2 * own + 1], start = window - (code & 255);
  i64 place = own;
  for (i64 i = own - 1; i >= 0 && found_at[2 * i] >= start; --i) {
    const i64 other = found_at[2 * i + 1], begin = found_at[2 * i] - (other & 255);
    if (begin > start || (begin == start && other >> 32 > code >> 32)) --place;
  }
  for (i64 i = own + 1; i < count && found_at[2 * i] <= start + reach; ++i) {
    const i64 other = found_at[2 * i + 1], begin = found_at[2 * i] - (other & 255);
    if (begin < start || (begin == start && other >> 32 < code >> 32)) ++place;
  }
  const i64 tile = (window + skew_of(values)) / TILE;
  const i64 text = text_at(offsets, map[tile], map[tile + 1], window);
  documents[place] = static_cast<u32>(text);
  patterns[place] = static_cast<u32>(code >> 32);
  starts[place] = start - offsets[text];
}

// Counts of a block of scan_sums and scan_places.
constexpr int CHUNK = 1024;

}  // namespace

KERNEL(256, scan_fill, u32 *to, i64 count, u32 value) {
  const i64 step = static_cast<i64>(gridDim.x) * blockDim.x;
  for (i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) to[i] = value;
}

// Leaves the slots as they were before.
KERNEL(256, scan_tally, u32 *slots, u32 *distinct, i64 count, i64 limit) {
  const i64 text = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (text >= count) return;
  u32 *const own = slots + text * limit;
  u32 filled = 0;
  while (filled < limit && own[filled] != EMPTY) own[filled++] = EMPTY;
  distinct[text] = filled;
}

// The sum of each chunk of counts.
KERNEL(256, scan_sums, const i64 *counts, i64 *sums, i64 count) {
  SHARED(i64, scratch, 8);
  const i64 first = static_cast<i64>(blockIdx.x) * CHUNK, last = first + CHUNK < count ? first + CHUNK : count;
  i64 sum = 0;
  for (i64 i = first + threadIdx.x; i < last; i += blockDim.x) sum += counts[i];
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// Puts the sum of what is before into the place of each count, and the sum of all into `total` and behind the counts.
KERNEL(256, scan_places, i64 *counts, const i64 *sums, i64 *total, i64 count) {
  SHARED(i64, scratch, 8);
  i64 before = 0;
  for (int i = threadIdx.x; i < blockIdx.x; i += blockDim.x) before += sums[i];
  before = block_sum(before, scratch);
  const i64 first = static_cast<i64>(blockIdx.x) * CHUNK, last = first + CHUNK < count ? first + CHUNK : count;
  for (i64 base = first; base < last; base += blockDim.x) {
    const i64 at = base + threadIdx.x;
    const i64 value = at < last ? counts[at] : 0;
    const i64 in_warp = sum_before(value);
    if (threadIdx.x % WARP == WARP - 1) scratch[threadIdx.x / WARP] = in_warp + value;
    __syncthreads();
    i64 earlier = 0, all = 0;
    for (int i = 0; i < blockDim.x / WARP; ++i) {
      const i64 sum = scratch[i];
      if (i < threadIdx.x / WARP) earlier += sum;
      all += sum;
    }
    // The next round must not overtake the reads of this one.
    __syncthreads();
    if (at < last) counts[at] = before + earlier + in_warp;
    before += all;
  }
  if (last == count && threadIdx.x == 0) {
    counts[count] = before;
    *total = before;
  }
}

#define PARAMETERS(T)                                                                                                            \
  const u32 *words, int filter_bits, int head_bits, int widths, int fold, i64 entries, i64 heads, i64 bytes, i64 members,        \
      const u8 *values, i64 length, const T *offsets, i64 count, const u32 *map, i64 tiles

#define BEGIN(T)                                                                                                                 \
  DYNAMIC_SHARED(u32, filter);                                                                                                   \
  const Table table = {words + entries, words + heads, members ? words + members : nullptr,                                      \
                       reinterpret_cast<const u8 *>(words + bytes), filter_bits, head_bits, widths, fold != 0};                  \
  const Texts<T> texts = texts_of(values, length, offsets, count);                                                               \
  load_filter(words, (1 << filter_bits) + ((widths & SHORT) ? PAIRS : 0), filter);                                                   \
  const i64 step = static_cast<i64>(gridDim.x) * TILES

#define SCAN(suffix, T)                                                                                                          \
  /* For each tile, and for the one behind the last, the text that has its first byte. */                                        \
  KERNEL(256, scan_map_##suffix, const u8 *values, const T *offsets, i64 count, u32 *map, i64 tiles) {                           \
    const i64 tile = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;                                                    \
    if (tile > tiles) return;                                                                                                    \
    map[tile] = static_cast<u32>(text_at(offsets, 0, count - 1, tile * TILE - skew_of(values)));                                 \
  }                                                                                                                              \
  KERNEL(256, scan_distinct_##suffix, PARAMETERS(T), u32 *slots, i64 limit) {                                                    \
    BEGIN(T);                                                                                                                    \
    Distinct sink = {slots, limit};                                                                                              \
    for (i64 tile = static_cast<i64>(blockIdx.x) * TILES + threadIdx.x / WARP; tile < tiles; tile += step)                       \
      walk(table, texts, map, filter, tile, sink);                                                                               \
  }                                                                                                                              \
  KERNEL(256, scan_count_##suffix, PARAMETERS(T), i64 *counts) {                                                                 \
    BEGIN(T);                                                                                                                    \
    for (i64 tile = static_cast<i64>(blockIdx.x) * TILES + threadIdx.x / WARP; tile < tiles; tile += step) {                     \
      Count sink = {0};                                                                                                          \
      walk(table, texts, map, filter, tile, sink);                                                                               \
      u32 sum = sink.count;                                                                                                      \
      for (int offset = WARP / 2; offset > 0; offset >>= 1) sum += __shfl_xor_sync(FULL_MASK, sum, offset);                      \
      if (threadIdx.x % WARP == 0) counts[tile] = sum;                                                                           \
    }                                                                                                                            \
  }                                                                                                                              \
  KERNEL(256, scan_write_##suffix, PARAMETERS(T), const i64 *places, i64 *found_at, i64 capacity) {                              \
    BEGIN(T);                                                                                                                    \
    for (i64 tile = static_cast<i64>(blockIdx.x) * TILES + threadIdx.x / WARP; tile < tiles; tile += step) {                     \
      const i64 place = places[tile];                                                                                            \
      if (place == places[tile + 1] || place >= capacity) continue;                                                              \
      /* How many there are before those of this lane is known only when all lanes have counted. */                              \
      Count counted = {0};                                                                                                       \
      walk(table, texts, map, filter, tile, counted);                                                                            \
      Write sink = {found_at, place + sum_before(counted.count), capacity};                                                      \
      if (counted.count) walk(table, texts, map, filter, tile, sink);                                                            \
    }                                                                                                                            \
  }                                                                                                                              \
  KERNEL(256, scan_order_##suffix, const u8 *values, const T *offsets, const u32 *map, const i64 *found_at, const i64 *total,    \
         u32 *documents, u32 *patterns, i64 *starts, i64 capacity, int reach) {                                                  \
    order(values, offsets, map, found_at, *total < capacity ? *total : capacity, documents, patterns, starts, reach);            \
  }

SCAN(i32, i32)
SCAN(i64, i64)
