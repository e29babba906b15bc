//! Every row is in exactly one split, whatever the split size.

use std::sync::Arc;

use arrow_array::{RecordBatch, StringArray, UInt64Array};
use proptest::prelude::*;
use rstest::rstest;

use super::support::{Files, compress, ipc_file, options, parquet};
use crate::planning::cut::{Contents, Group, cut};
use crate::planning::index::{Point, RowIndex};
use crate::{Compression, ReadOptions, SplitSize, SplitUnit};

fn size() -> impl Strategy<Value = SplitSize> {
    prop_oneof![
        (1_u64..5000).prop_map(SplitSize::Bytes),
        (1_u64..600).prop_map(SplitSize::Rows),
        (1_u64..=1000).prop_map(|thousandths| SplitSize::Fraction(thousandths as f64 / 1000.0)),
    ]
}

fn groups() -> impl Strategy<Value = Contents> {
    prop::collection::vec(0_u64..300, 0..12)
        .prop_map(|rows| Contents::Groups(rows.into_iter().map(|rows| Group { rows, bytes: rows * 10 }).collect()))
}

/// Rows of 10 bytes.
fn text() -> impl Strategy<Value = Contents> {
    (0_u64..2000, 1_u64..100).prop_map(|(rows, step)| {
        let points = (0..rows).step_by(step as usize).map(|row| Point { offset: row * 10, row }).collect();
        Contents::Text { size: rows * 10, index: Some(RowIndex { rows, complete: true, end: rows * 10, points }) }
    })
}

fn whole() -> impl Strategy<Value = Contents> {
    (0_u64..500).prop_map(|rows| Contents::Whole { size: rows * 10, rows: Some(rows), complete: true })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The windows of the splits, put together, are exactly the wanted rows in order.
    #[test]
    fn windows_cover_the_source_once(
        files in prop::collection::vec(prop_oneof![groups(), text(), whole()], 0..6),
        split_size in size(),
        skip in prop_oneof![Just(0), 0_u64..3000],
        limit in prop_oneof![Just(None), (0_u64..3000).prop_map(Some)],
    ) {
        let options = ReadOptions { split_size, skip, limit, ..ReadOptions::default() };
        let total: u64 = files.iter().map(|file| file.rows().unwrap_or(0)).sum();
        let splits = cut(&files, &options);
        let end = limit.map_or(total, |limit| (skip + limit).min(total));
        let mut next = skip.min(end);
        let mut begins = Vec::new();
        let mut begin = 0;
        for file in &files {
            begins.push(begin);
            begin += file.rows().unwrap_or(0);
        }
        for (number, split) in splits.iter().enumerate() {
            prop_assert_eq!(split.number, number as u64);
            prop_assert_eq!(split.first_row, Some(next), "a gap or an overlap before {:?}", split);
            prop_assert_eq!(split.file_row, Some(next - begins[split.file as usize]));
            let rows = split.rows.unwrap();
            prop_assert!(rows > 0);
            prop_assert_eq!(rows_of(&files[split.file as usize], split), (split.file_row.unwrap(), rows));
            next += rows;
        }
        prop_assert_eq!(next, end.max(skip.min(end)));
    }

    /// The share of rows that is asked for gives that many splits of one file, and their numbers are unique.
    #[test]
    fn shares_of_any_source_lose_nothing(rows in 1_u64..2000, thousandths in 1_u64..=1000) {
        let share = thousandths as f64 / 1000.0;
        let options = ReadOptions { split_size: SplitSize::Fraction(share), ..ReadOptions::default() };
        let splits = cut(&[Contents::Groups(vec![Group { rows, bytes: 1 }])], &options);
        let mut numbers: Vec<u64> = splits.iter().map(|split| split.number).collect();
        numbers.dedup();
        prop_assert_eq!(numbers.len(), splits.len());
        prop_assert_eq!(splits.iter().map(|split| split.rows.unwrap()).sum::<u64>(), rows);
        prop_assert!(splits.len() as f64 <= (1.0 / share) * 2.0 + 1.0);
    }
}

/// Which rows a reader gives for a split: the first one's position in the file and the number.
fn rows_of(file: &Contents, split: &crate::Split) -> (u64, u64) {
    let (first, available) = match file {
        Contents::Groups(groups) => {
            let rows = |groups: &[Group]| groups.iter().map(|group| group.rows).sum::<u64>();
            (rows(&groups[..split.start as usize]), rows(&groups[split.start as usize..split.end as usize]))
        }
        Contents::Text { .. } => (split.start / 10, (split.end - split.start) / 10),
        Contents::Whole { rows, .. } => (0, rows.unwrap()),
    };
    let left = available - split.skip;
    (first + split.skip, split.take.map_or(left, |take| take.min(left)))
}

/// Lines of very different length, blank ones between, some without content.
fn ragged(rows: usize) -> String {
    let mut content = String::new();
    for row in 0..rows {
        if row % 7 == 3 {
            content.push_str("\n  \n");
        }
        content.push_str(&format!("{{\"row\": {row}, \"text\": \"{}\"}}\n", "é".repeat(row * row % 300)));
    }
    content
}

#[rstest]
#[tokio::test]
async fn any_byte_range_gives_every_line_once(#[values(1, 2, 3, 50, 333)] rows: usize) {
    for size in [1, 2, 7, 64, 100, 999, 100_000] {
        let files = Files::of(&[("a.jsonl", ragged(rows).into_bytes())]).await;
        let mut options = options(&format!("{size}B"));
        options.id = "row".into();
        let plan = files.plan(&options).await.unwrap();
        assert!(plan.splits.iter().all(|split| split.rows.is_none()), "lines were counted without need");
        let rows_read = files.all(&options).await.unwrap();
        assert_eq!(rows_read.numbers("row"), (0..rows as u64).collect::<Vec<_>>(), "{size}");
    }
}

/// Quoted fields hold line ends, doubled quotes and things that look like rows.
#[rstest]
#[case("64B")]
#[case("1KB")]
#[case("3 rows")]
#[case("0.01")]
#[tokio::test]
async fn line_ends_in_quotes_end_no_row(#[case] size: &str) {
    for content_end in ["\n", ""] {
        let mut content = "row,text\n".to_owned();
        for row in 0..700 {
            content.push_str(&format!("{row},\"line\n7,\"\"x\"\"\n\n{row}\"\n"));
        }
        let content = content.trim_end().to_owned() + content_end;
        let files = Files::of(&[("a.csv", content.into_bytes())]).await;
        let options = ReadOptions { id: "row".into(), ..options(size) };
        let rows = files.all(&options).await.unwrap();
        assert_eq!(rows.unreadable, []);
        assert_eq!(rows.numbers("row"), (0..700).collect::<Vec<_>>());
        assert_eq!(rows.column("text")[5], "line\n7,\"x\"\n\n5");
    }
}

fn numbered(rows: std::ops::Range<u64>) -> RecordBatch {
    let texts: StringArray = rows.clone().map(|row| Some(row.to_string())).collect();
    let ids: UInt64Array = rows.collect();
    RecordBatch::try_from_iter([("id", Arc::new(ids) as _), ("text", Arc::new(texts) as _)]).unwrap()
}

/// Positions fill the id where no file has one, over files of all formats.
#[rstest]
#[case("64MB")]
#[case("90B")]
#[case("7 rows")]
#[case("0.001")]
#[case("0.3")]
#[tokio::test]
async fn positions_run_through_all_files(#[case] size: &str) {
    let lines = |rows: std::ops::Range<u64>| rows.map(|row| format!("{{\"text\": \"{row}\"}}\n")).collect::<String>();
    let table: String = (80..110).map(|row| format!("\"{row}\"\n")).collect();
    let list: Vec<String> = (110..130).map(|row| format!("{{\"text\": \"{row}\"}}")).collect();
    let only_text = |rows: std::ops::Range<u64>| numbered(rows).project(&[1]).unwrap();
    let files = Files::of(&[
        ("a.parquet", parquet(&[only_text(0..40)], 9)),
        ("b.jsonl", lines(40..60).into_bytes()),
        ("c.jsonl.gz", compress(lines(60..80).as_bytes(), Compression::Gzip)),
        ("d.csv", format!("text\n{table}").into_bytes()),
        ("e.json", format!("[{}]", list.join(",")).into_bytes()),
        ("f.arrow", ipc_file(&[only_text(130..150), only_text(150..157)])),
    ])
    .await;
    let options = ReadOptions { provenance: true, ..options(size) };
    let rows = files.all(&options).await.unwrap();
    assert_eq!(rows.numbers("id"), (0..157).collect::<Vec<_>>());
    assert_eq!(rows.numbers("text"), (0..157).collect::<Vec<_>>());
    let sources = rows.column("_source");
    let mut expected = Vec::new();
    for (name, count) in
        [("a.parquet", 40), ("b.jsonl", 20), ("c.jsonl.gz", 20), ("d.csv", 30), ("e.json", 20), ("f.arrow", 27)]
    {
        expected.extend((0..count).map(|row| (format!("memory:///{name}"), row)));
    }
    assert_eq!(sources.into_iter().zip(rows.numbers("_row")).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn the_same_split_gives_the_same_batches() {
    let files =
        Files::of(&[("a.jsonl", ragged(300).into_bytes()), ("b.parquet", parquet(&[numbered(0..500)], 77))]).await;
    let options =
        ReadOptions { batch_rows: 10, batch_bytes: 2000, columns: Some(vec!["text".into()]), ..options("5KB") };
    let plan = files.plan(&options).await.unwrap();
    let first = files.read(&plan, &options).await.unwrap();
    assert_eq!(first, files.read(&plan, &options).await.unwrap());
    assert!(first.iter().flatten().count() > 30);
}

#[tokio::test]
async fn many_splits_are_planned_quickly() {
    let started = std::time::Instant::now();
    let files = vec![Contents::Groups(vec![Group { rows: 1000, bytes: 1_000_000 }; 5000]); 20];
    assert_eq!(cut(&files, &options("1MB")).len(), 100_000);
    assert_eq!(cut(&files, &options("1000 rows")).len(), 100_000);
    let points = (0..1_000_000).map(|number| Point { offset: number << 20, row: number * 1000 }).collect();
    let index = RowIndex { rows: 1_000_000_000, complete: true, end: 1_000_000 << 20, points };
    let text = [Contents::Text { size: 1_000_000 << 20, index: Some(index) }];
    let splits = cut(&text, &options("10000 rows"));
    assert_eq!(splits.len(), 100_000);
    assert!(splits.iter().all(|split| split.unit == SplitUnit::Bytes && split.take.is_none()));
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}
