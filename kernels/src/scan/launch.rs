//! Launches of the CUDA kernels in `cuda/scan.cu`.

use std::num::NonZeroU32;

use super::table::PAIRS;
use super::{Occurrences, Offset, Table, Texts};
use crate::launch::{Argument, Buffer, BufferMut, DType, Launch, ShapeError, expect_len, to_grid, to_i32, to_i64};

const FAMILY: &str = "scan";
const BLOCK: [u32; 3] = [256, 1, 1];
/// Bytes of a warp's tile, tiles of a block at a time, and counts of a block, as in the kernels.
const TILE: usize = 2048;
const TILES: usize = 8;
const CHUNK: usize = 1024;
/// At most so many blocks, each with several turns: a block begins by loading the filter.
const BLOCKS: usize = 2048;

impl Table {
    /// Elements of the workspace of [`Self::distinct_launches`] for so many values and texts.
    pub fn distinct_workspace_len(&self, values: usize, texts: usize, limit: NonZeroU32) -> usize {
        tiles(values) + 1 + texts * self.slots(limit)
    }

    /// The launches that say for each text how many distinct patterns it has, but at most `limit`: a tile of a text that is known to have
    /// so many is not looked at. `table` holds [`Self::words`]. The workspace, [`Self::distinct_workspace_len`] elements, has
    /// `limit` of them for each text, so a low limit is what this is for.
    ///
    /// Offsets that point outside of the values are moved to their ends; where offsets fall, counts are not those of any text.
    ///
    /// # Errors
    /// Lengths that do not belong together, or more than 2³¹ − 1 texts.
    pub fn distinct_launches<'a, O: Offset>(
        &self,
        table: Buffer<'a, u32>,
        texts: Texts<Buffer<'a, u8>, Buffer<'a, O>>,
        limit: NonZeroU32,
        distinct: BufferMut<'a, u32>,
        workspace: BufferMut<'a, u32>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let count = texts.offsets.len().saturating_sub(1);
        expect_len("table", table.len(), self.words.len())?;
        expect_len("distinct", distinct.len(), count)?;
        let needed = self.distinct_workspace_len(texts.values.len(), count, limit);
        expect_len("workspace", workspace.len(), needed)?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let slots = workspace.argument_at(tiles(texts.values.len()) + 1);
        let per_text = Argument::U32(self.slots(limit) as u32);
        let pass = Pass::new(self, table, texts, count, workspace.argument())?;
        Ok(vec![
            fill(slots, count * self.slots(limit), u32::MAX)?,
            pass.map()?,
            pass.launch(name::<O>("scan_distinct_i32", "scan_distinct_i64"), vec![slots, per_text])?,
            Launch::new(
                FAMILY,
                "scan_tally",
                [to_grid("texts", count.div_ceil(256))?, 1, 1],
                BLOCK,
                vec![slots, distinct.argument(), Argument::I64(to_i64("texts", count)?), per_text],
            ),
        ])
    }

    /// Elements of the workspace of [`Self::occurrences_launches`] for so many values and with room for so many occurrences.
    pub fn occurrences_workspace_len(&self, values: usize, room: usize) -> usize {
        OccurrencesWorkspace::new(tiles(values), room).len
    }

    /// The launches that list every occurrence of every pattern in every text. `table` holds [`Self::words`]. The workspace has
    /// [`Self::occurrences_workspace_len`] elements.
    ///
    /// Offsets that point outside of the values are moved to their ends; where offsets fall, what is listed is not that of any text.
    ///
    /// # Errors
    /// Lengths that do not belong together, or more than 2³¹ − 1 texts.
    pub fn occurrences_launches<'a, O: Offset>(
        &self,
        table: Buffer<'a, u32>,
        texts: Texts<Buffer<'a, u8>, Buffer<'a, O>>,
        into: Occurrences<BufferMut<'a, u32>, BufferMut<'a, i64>>,
        workspace: BufferMut<'a, i64>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let count = texts.offsets.len().saturating_sub(1);
        let (tiles, room) = (tiles(texts.values.len()), into.texts.len());
        expect_len("table", table.len(), self.words.len())?;
        expect_len("patterns", into.patterns.len(), room)?;
        expect_len("starts", into.starts.len(), room)?;
        expect_len("total", into.total.len(), 1)?;
        let parts = OccurrencesWorkspace::new(tiles, room);
        expect_len("workspace", workspace.len(), parts.len)?;
        if count == 0 {
            // The total is a number of 64 bits.
            return Ok(vec![fill(into.total.argument(), 2, 0)?]);
        }
        let [places, sums, found] = [parts.places, parts.sums, parts.found].map(|part| workspace.argument_at(part));
        let map = workspace.argument_at(parts.map);
        let capacity = Argument::I64(to_i64("occurrences", room)?);
        let counts = Argument::I64(to_i64("values", tiles)?);
        let chunks = [to_grid("values", tiles.div_ceil(CHUNK))?, 1, 1];
        let pass = Pass::new(self, table, texts, count, map)?;
        let mut launches = vec![
            pass.map()?,
            pass.launch(name::<O>("scan_count_i32", "scan_count_i64"), vec![places])?,
            Launch::new(FAMILY, "scan_sums", chunks, BLOCK, vec![places, sums, counts]),
            Launch::new(FAMILY, "scan_places", chunks, BLOCK, vec![places, sums, into.total.argument(), counts]),
        ];
        if room > 0 {
            let arguments = vec![places, found, capacity];
            launches.push(pass.launch(name::<O>("scan_write_i32", "scan_write_i64"), arguments)?);
            let arguments = vec![
                texts.values.argument(),
                texts.offsets.argument(),
                map,
                found,
                into.total.argument(),
                into.texts.argument(),
                into.patterns.argument(),
                into.starts.argument(),
                capacity,
                Argument::I32(to_i32("reach", self.reach)?),
            ];
            let grid = [to_grid("occurrences", room.div_ceil(256))?, 1, 1];
            launches.push(Launch::new(FAMILY, name::<O>("scan_order_i32", "scan_order_i64"), grid, BLOCK, arguments));
        }
        Ok(launches)
    }

    /// Distinct patterns to be kept of a text.
    fn slots(&self, limit: NonZeroU32) -> usize {
        (limit.get() as usize).min(self.patterns.max(1))
    }
}

/// Where the parts of the workspace begin.
struct OccurrencesWorkspace {
    places: usize,
    sums: usize,
    found: usize,
    map: usize,
    len: usize,
}

impl OccurrencesWorkspace {
    const fn new(tiles: usize, room: usize) -> Self {
        let sums = tiles + 1;
        let found = sums + tiles.div_ceil(CHUNK);
        let map = found + 2 * room;
        // Two numbers of the map in one element.
        Self { places: 0, sums, found, map, len: map + (tiles + 1).div_ceil(2) }
    }
}

/// What all launches that go through the texts have in common.
struct Pass<'a, O> {
    grid: [u32; 3],
    shared_bytes: u32,
    values: Argument,
    length: Argument,
    count: Argument,
    map: Argument,
    tiles: usize,
    offsets: Buffer<'a, O>,
    table: Vec<Argument>,
}

impl<'a, O: Offset> Pass<'a, O> {
    fn new(
        table: &Table,
        words: Buffer<'a, u32>,
        texts: Texts<Buffer<'a, u8>, Buffer<'a, O>>,
        count: usize,
        map: Argument,
    ) -> Result<Self, ShapeError> {
        // Texts are numbers of 31 bits.
        to_i32("texts", count)?;
        let tiles = tiles(texts.values.len());
        let pairs = if table.widths & 0b110 != 0 { PAIRS } else { 0 };
        Ok(Self {
            grid: [tiles.div_ceil(TILES).min(BLOCKS) as u32, 1, 1],
            shared_bytes: (4 * ((1 << table.filter_bits) + pairs)) as u32,
            values: texts.values.argument(),
            length: Argument::I64(to_i64("values", texts.values.len())?),
            count: Argument::I64(to_i64("texts", count)?),
            map,
            tiles,
            offsets: texts.offsets,
            table: vec![
                words.argument(),
                Argument::I32(table.filter_bits.cast_signed()),
                words.skip(table.entries).argument(),
                words.skip(table.heads).argument(),
                Argument::I32(table.head_bits.cast_signed()),
                words.skip(table.bytes).argument(),
                table.members.map_or(Argument::Address(0), |members| words.skip(members).argument()),
                Argument::I32(table.widths.cast_signed()),
                Argument::I32(i32::from(table.fold)),
            ],
        })
    }

    /// Says of each tile which text it begins in.
    fn map(&self) -> Result<Launch<'a>, ShapeError> {
        let tiles = Argument::I64(to_i64("values", self.tiles)?);
        let arguments = vec![self.values, self.offsets.argument(), self.count, self.map, tiles];
        let grid = [to_grid("values", (self.tiles + 1).div_ceil(256))?, 1, 1];
        Ok(Launch::new(FAMILY, name::<O>("scan_map_i32", "scan_map_i64"), grid, BLOCK, arguments))
    }

    fn launch(&self, kernel: &'static str, more: Vec<Argument>) -> Result<Launch<'a>, ShapeError> {
        let mut arguments = self.table.clone();
        arguments.extend([self.values, self.length, self.offsets.argument(), self.count, self.map]);
        arguments.push(Argument::I64(to_i64("values", self.tiles)?));
        arguments.extend(more);
        Ok(Launch::new(FAMILY, kernel, self.grid, BLOCK, arguments).with_shared_bytes(self.shared_bytes))
    }
}

/// Tiles of so many values, whatever their address: the first tile begins up to 15 bytes before them.
const fn tiles(values: usize) -> usize {
    (values + 15).div_ceil(TILE)
}

fn fill<'a>(to: Argument, count: usize, value: u32) -> Result<Launch<'a>, ShapeError> {
    let grid = [count.div_ceil(4 * 256).clamp(1, BLOCKS) as u32, 1, 1];
    let arguments = vec![to, Argument::I64(to_i64("workspace", count)?), Argument::U32(value)];
    Ok(Launch::new(FAMILY, "scan_fill", grid, BLOCK, arguments))
}

/// The kernel for a type of offsets.
fn name<O: Offset>(narrow: &'static str, wide: &'static str) -> &'static str {
    if O::DTYPE == DType::I64 { wide } else { narrow }
}
