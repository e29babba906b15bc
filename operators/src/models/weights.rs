//! Weights in safetensors: one file, or several with an index.
//!
//! A file is not mapped or held: a tensor is read when the architecture asks for it, so that loading takes the memory of the model in
//! the form in which it computes, and of one tensor more.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::error::{ModelError, Result};
use super::files::{Content, ModelFiles};
use crate::nearest;

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// The largest header that is read; those of the largest models are below 1 MB.
const MOST_HEADER: u64 = 100 << 20;

/// The tensors of a model, by name.
#[derive(Debug)]
pub(crate) struct Weights {
    /// The file, or the index of the files: what messages name.
    path: PathBuf,
    files: Vec<TensorFile>,
    /// Number of the file that has the tensor.
    places: BTreeMap<String, usize>,
    used: RefCell<BTreeSet<String>>,
}

#[derive(Debug)]
struct TensorFile {
    path: PathBuf,
    content: Content,
    metadata: Metadata,
    /// Where tensors begin.
    start: u64,
}

impl Weights {
    /// Opens the weights of a model.
    pub(crate) fn open(files: &ModelFiles<'_>) -> Result<Self> {
        if let Some(index) = files.read_if_there(INDEX)? {
            return Self::open_index(files, &index);
        }
        let others = ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"];
        Self::open_one(files, SINGLE, &others)
    }

    /// Opens one file; `others` are names that the same weights can have in formats that are not read.
    pub(crate) fn open_one(files: &ModelFiles<'_>, name: &str, others: &[&str]) -> Result<Self> {
        if !files.is_on_disk(name)
            && let Some(other) = others.iter().find(|name| files.is_on_disk(name))
        {
            let message = format!("no such file; there is {other}, and weights must be safetensors");
            return Err(ModelError::Read { path: files.path(name), message });
        }
        let file = TensorFile::open(files, name)?;
        let places = file.metadata.tensors().into_keys().map(|name| (name, 0)).collect();
        Ok(Self { path: files.path(name), files: vec![file], places, used: RefCell::default() })
    }

    fn open_index(files: &ModelFiles<'_>, text: &[u8]) -> Result<Self> {
        let path = files.path(INDEX);
        let malformed = |message: String| ModelError::Malformed { path: path.clone(), message };
        let index: serde_json::Value = serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))?;
        let map = index.get("weight_map").and_then(serde_json::Value::as_object);
        let map = map.ok_or_else(|| malformed("no object 'weight_map'".into()))?;
        let mut names: Vec<&str> = Vec::new();
        let mut places = BTreeMap::new();
        for (tensor, file) in map {
            let file = file.as_str().filter(|file| !file.contains(['/', '\\']));
            let file =
                file.ok_or_else(|| malformed(format!("weight_map: '{tensor}' does not name a file of the folder")))?;
            let number = names.iter().position(|name| *name == file).unwrap_or_else(|| {
                names.push(file);
                names.len() - 1
            });
            places.insert(tensor.clone(), number);
        }
        let opened = names.iter().map(|name| TensorFile::open(files, name)).collect::<Result<Vec<_>>>()?;
        for (tensor, &number) in &places {
            if opened[number].metadata.info(tensor).is_none() {
                return Err(malformed(format!("weight_map: {} has no tensor '{tensor}'", names[number])));
            }
        }
        // Another copy of a tensor may have other numbers, and one that is not in the map is a part of the model.
        for (number, file) in opened.iter().enumerate() {
            let mut tensors = file.metadata.offset_keys();
            tensors.sort_unstable();
            for tensor in tensors {
                match places.get(&tensor) {
                    Some(&place) if place == number => {}
                    Some(&place) => {
                        let (own, other) = (names[number], names[place]);
                        return Err(malformed(format!("tensor '{tensor}' is in {other} and in {own}")));
                    }
                    None => {
                        let own = names[number];
                        return Err(malformed(format!("weight_map: {own} has a tensor '{tensor}' that is not named")));
                    }
                }
            }
        }
        Ok(Self { path, files: opened, places, used: RefCell::default() })
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// The shape of a tensor.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.info(name).map(|info| info.shape.as_slice())
    }

    /// The type of a tensor's elements.
    pub(crate) fn dtype(&self, name: &str) -> Option<Dtype> {
        self.info(name).map(|info| info.dtype)
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.files[*self.places.get(name)?].metadata.info(name)
    }

    /// The bytes of a tensor as they are.
    pub(crate) fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let place = self.places.get(name).map(|&number| &self.files[number]);
        let found = place.and_then(|file| file.metadata.info(name).map(|info| (file, info)));
        let Some((file, info)) = found else {
            let message = format!("no tensor '{name}'");
            return Err(ModelError::Malformed { path: self.path.clone(), message });
        };
        file.bytes(name, info)
    }

    /// The elements of a tensor of this shape, in the order of memory.
    pub(crate) fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let Some(&number) = self.places.get(name) else {
            let hint = match nearest(name, self.places.keys().map(String::as_str)) {
                Some(nearest) => format!("there is '{nearest}'"),
                None => format!("there are {} others", self.places.len()),
            };
            return Err(ModelError::MissingTensor {
                path: self.path.clone(),
                name: name.into(),
                expected: shape.into(),
                hint,
            });
        };
        let file = &self.files[number];
        let Some(info) = file.metadata.info(name) else {
            let message = format!("no tensor '{name}'");
            return Err(ModelError::Malformed { path: file.path.clone(), message });
        };
        if info.shape != shape {
            let (expected, found) = (shape.into(), info.shape.clone());
            return Err(ModelError::TensorShape { path: file.path.clone(), name: name.into(), expected, found });
        }
        self.used.borrow_mut().insert(name.into());
        file.read(name, info)
    }

    /// Counts tensors as used, of which the numbers are not needed: buffers that older programs saved.
    pub(crate) fn ignore(&self, unneeded: impl Fn(&str) -> bool) {
        self.used.borrow_mut().extend(self.places.keys().filter(|name| unneeded(name)).cloned());
    }

    /// Refuses tensors that were not read: the architecture would leave out a part of the model.
    pub(crate) fn expect_all_used(&self, architecture: &str) -> Result<()> {
        let used = self.used.borrow();
        let unused: Vec<&String> = self.places.keys().filter(|name| !used.contains(*name)).collect();
        if unused.is_empty() {
            return Ok(());
        }
        let mut names: Vec<String> = unused.iter().take(5).map(|name| format!("'{name}'")).collect();
        if unused.len() > 5 {
            names.push(format!("and {} more", unused.len() - 5));
        }
        Err(ModelError::UnusedTensors { path: self.path.clone(), architecture: architecture.into(), names })
    }
}

impl TensorFile {
    fn open(files: &ModelFiles<'_>, name: &str) -> Result<Self> {
        let (path, content) = (files.path(name), files.content(name)?);
        let malformed = |message: String| ModelError::Malformed { path: path.clone(), message };
        let size = content.size().map_err(|error| unreadable(&path, &error))?;
        if size < 8 {
            return Err(malformed(format!("{size} bytes are too few for safetensors")));
        }
        let mut length = [0; 8];
        content.read_at(0, &mut length).map_err(|error| unreadable(&path, &error))?;
        let header = u64::from_le_bytes(length);
        if header > MOST_HEADER || header + 8 > size {
            return Err(malformed(format!(
                "the header would have {header} bytes, and the file has {size}: not safetensors, or cut off"
            )));
        }
        let mut bytes = vec![0; header as usize];
        content.read_at(8, &mut bytes).map_err(|error| unreadable(&path, &error))?;
        let metadata: Metadata = serde_json::from_slice(&bytes)
            .map_err(|error| malformed(format!("the header is not of safetensors: {error}")))?;
        let end = metadata.tensors().values().map(|info| info.data_offsets.1).max().unwrap_or(0) as u64;
        let expected = end.saturating_add(8 + header);
        if expected != size {
            return Err(malformed(format!(
                "{expected} bytes are expected by the header, found {size}: the file is cut off or has a tail"
            )));
        }
        Ok(Self { path, content, metadata, start: 8 + header })
    }

    fn bytes(&self, name: &str, info: &TensorInfo) -> Result<Vec<u8>> {
        let (begin, end) = info.data_offsets;
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, &size| bits.checked_mul(size));
        if end < begin || bits != Some((end - begin) * 8) {
            let message = format!(
                "tensor '{name}' of shape {:?} and type {:?} cannot lie at bytes {begin} to {end}",
                info.shape, info.dtype
            );
            return Err(ModelError::Malformed { path: self.path.clone(), message });
        }
        let mut bytes = vec![0; end - begin];
        self.content.read_at(self.start + begin as u64, &mut bytes).map_err(|error| unreadable(&self.path, &error))?;
        Ok(bytes)
    }

    fn read(&self, name: &str, info: &TensorInfo) -> Result<Vec<f32>> {
        let bytes = self.bytes(name, info)?;
        let pairs = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
        Ok(match info.dtype {
            Dtype::F32 => {
                bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
            }
            Dtype::BF16 => pairs().map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
            Dtype::F16 => pairs().map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
            other => {
                let message = format!("tensor '{name}' is of type {other:?}; F32, F16 and BF16 are supported");
                return Err(ModelError::Malformed { path: self.path.clone(), message });
            }
        })
    }
}

impl Content {
    fn size(&self) -> std::io::Result<u64> {
        match self {
            Self::Disk(path) => Ok(std::fs::metadata(path)?.len()),
            Self::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    fn read_at(&self, start: u64, to: &mut [u8]) -> std::io::Result<()> {
        match self {
            Self::Disk(path) => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(start))?;
                file.read_exact(to)
            }
            Self::Memory(bytes) => {
                let start = usize::try_from(start).map_err(|_| std::io::ErrorKind::UnexpectedEof)?;
                let range = start..start.saturating_add(to.len());
                to.copy_from_slice(bytes.get(range).ok_or(std::io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> ModelError {
    ModelError::Read { path: path.into(), message: error.to_string() }
}
