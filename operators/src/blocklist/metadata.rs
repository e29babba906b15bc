//! The column `<name>_metadata`.

use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{ArrayRef, ListArray, StructArray, UInt32Array, UInt64Array};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, FieldRef, Fields};
use gristmill_kernels::scan::{Hit, Span};

use super::KIND;
use super::lower::Lowered;
use crate::config::invalid;
use crate::{OperatorError, Result};

/// Collects the metadata of one batch.
#[derive(Debug)]
pub(super) struct MetadataBuilder<'a> {
    terms: &'a [String],
    found: StringBuilder,
    found_bytes: usize,
    /// How many terms each row lists: lengths of `terms` and `counts`, and the values of `distinct`.
    distinct: Vec<u32>,
    counts: Option<Counts>,
    spans: Option<Spans>,
}

#[derive(Debug, Default)]
struct Counts {
    occurrences: Vec<u64>,
    of_terms: Vec<u64>,
}

#[derive(Debug, Default)]
struct Spans {
    lengths: Vec<usize>,
    term: Vec<u32>,
    start: Vec<u64>,
    end: Vec<u64>,
}

impl<'a> MetadataBuilder<'a> {
    pub(super) fn new(terms: &'a [String], counts: bool, spans: bool, rows: usize) -> Self {
        Self {
            terms,
            found: StringBuilder::new(),
            found_bytes: 0,
            distinct: Vec::with_capacity(rows),
            counts: counts.then(Counts::default),
            spans: spans.then(Spans::default),
        }
    }

    /// Fields of the struct.
    pub(super) fn fields(counts: bool, spans: bool) -> Fields {
        let list = |name: &str, item: FieldRef| Field::new(name, DataType::List(item), false);
        let mut fields = vec![list("terms", term_item()), Field::new("distinct", DataType::UInt32, false)];
        if counts {
            fields.push(Field::new("occurrences", DataType::UInt64, false));
            fields.push(list("counts", count_item()));
        }
        if spans {
            fields.push(list("spans", span_item()));
        }
        fields.into()
    }

    /// Adds a row: its distinct terms and, where asked for, their occurrences in the lowered text.
    pub(super) fn push(&mut self, hits: &[Hit], spans: &[Span], lowered: &Lowered<'_>) -> Result<()> {
        for hit in hits {
            let term = &self.terms[hit.pattern as usize];
            self.found_bytes += term.len();
            if self.found_bytes > i32::MAX as usize {
                return Err(too_large());
            }
            self.found.append_value(term);
        }
        self.distinct.push(u32::try_from(hits.len()).map_err(|_| too_large())?);
        if let Some(counts) = &mut self.counts {
            counts.occurrences.push(hits.iter().map(|hit| hit.occurrences).sum());
            counts.of_terms.extend(hits.iter().map(|hit| hit.occurrences));
        }
        if let Some(all) = &mut self.spans {
            all.lengths.push(spans.len());
            for span in spans {
                // Hits are in order of their patterns, and each span belongs to one of them.
                let index = hits.partition_point(|hit| hit.pattern < span.pattern);
                let (start, end) = lowered.original(span.start, span.end);
                all.term.push(index as u32);
                all.start.push(start as u64);
                all.end.push(end as u64);
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<ArrayRef> {
        let fields = Self::fields(self.counts.is_some(), self.spans.is_some());
        let lengths = || self.distinct.iter().map(|length| *length as usize);
        let list = |item: FieldRef, lengths: &mut dyn Iterator<Item = usize>, values: ArrayRef| -> Result<ArrayRef> {
            if i32::try_from(values.len()).is_err() {
                return Err(too_large());
            }
            Ok(Arc::new(ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), values, None)?))
        };
        let mut columns: Vec<ArrayRef> = vec![
            list(term_item(), &mut lengths(), Arc::new(self.found.finish()))?,
            Arc::new(UInt32Array::from(self.distinct.clone())),
        ];
        if let Some(counts) = self.counts {
            columns.push(Arc::new(UInt64Array::from(counts.occurrences)));
            columns.push(list(count_item(), &mut lengths(), Arc::new(UInt64Array::from(counts.of_terms)))?);
        }
        if let Some(spans) = self.spans {
            let parts: Vec<ArrayRef> = vec![
                Arc::new(UInt32Array::from(spans.term)),
                Arc::new(UInt64Array::from(spans.start)),
                Arc::new(UInt64Array::from(spans.end)),
            ];
            let values = Arc::new(StructArray::try_new(span_fields(), parts, None)?);
            columns.push(list(span_item(), &mut spans.lengths.iter().copied(), values)?);
        }
        // A struct without fields would not know its length; this one always has some.
        Ok(Arc::new(StructArray::try_new(fields, columns, None)?))
    }
}

fn term_item() -> FieldRef {
    Arc::new(Field::new("item", DataType::Utf8, false))
}

fn count_item() -> FieldRef {
    Arc::new(Field::new("item", DataType::UInt64, false))
}

fn span_item() -> FieldRef {
    Arc::new(Field::new("item", DataType::Struct(span_fields()), false))
}

fn span_fields() -> Fields {
    Fields::from(vec![
        Field::new("term", DataType::UInt32, false),
        Field::new("start", DataType::UInt64, false),
        Field::new("end", DataType::UInt64, false),
    ])
}

fn too_large() -> OperatorError {
    invalid(KIND, "", "the terms or spans found in one batch exceed 2^31; use smaller batches, or 'list: first'")
}
