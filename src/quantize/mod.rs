//! Quantization of a model file: a GGUF model of any size in, a GGUF file in another format out. Tensors stream through
//! in pieces: one thread reads ahead, the compute threads convert, the caller's thread writes, and no more than a few
//! pieces are in memory. The bytes do not depend on the number of threads.

mod mix;

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

pub use mix::Mix;

use crate::disk::{self, DiskError, PartFile};
use crate::gguf::writer::{TensorPlan, WriteError, Writer};
use crate::gguf::{Gguf, GgufError, Metadata, TensorInfo, Value};
use crate::pool::Pool;
use crate::quant::GgmlType;

/// Elements read, converted and written at a time: 16 MiB of f32. A whole number of blocks of every format.
const PIECE: u64 = 4 << 20;
/// Elements a compute thread takes at a time.
const GRAIN: usize = 16 << 10;
/// Pieces read ahead.
const AHEAD: usize = 2;
/// The version of the K-quants' layout, the value of `general.quantization_version`.
const QUANTIZATION_VERSION: u32 = 2;

/// What keeps a model from being quantized.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{}: {source}", path.display())]
    Write { path: PathBuf, source: WriteError },
    #[error("{}: tensor `{name}` cannot be read: {source}", path.display())]
    Read { path: PathBuf, name: String, source: io::Error },
    #[error("{} is the model itself; name another file", path.display())]
    Same { path: PathBuf },
    #[error(
        "tensor `{name}` is {found} already, which has lost what {wanted} would keep; quantize the F16, BF16 or F32 \
         model, or say --allow-requantize"
    )]
    Quantized { name: String, found: GgmlType, wanted: GgmlType },
    #[error("tensor `{name}` is {found}, a format that cannot be decoded here; use a model in another one")]
    Format { name: String, found: GgmlType },
    #[error(
        "tensor `{name}` holds {value} at element {element}, which {wanted} cannot; the model is damaged or overflowed \
         when it was converted"
    )]
    Value { name: String, value: f32, element: u64, wanted: GgmlType },
}

/// How a model is to be quantized.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub mix: Mix,
    /// The mix's base format for every tensor that is quantized at all.
    pub pure: bool,
    /// Take weights that are quantized already.
    pub requantize: bool,
}

/// What became of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the model that was read.
    pub from_bytes: u64,
    /// Bytes of the file that was written.
    pub to_bytes: u64,
}

/// A piece of a tensor on its way from the reader to the writer.
struct Piece {
    tensor: usize,
    /// The first element.
    start: u64,
    n: u64,
    bytes: Vec<u8>,
}

/// Quantizes the model at `input` (any part of a split one) into one file at `output`, which appears once it is whole.
/// `progress` is told bytes read and bytes in all.
///
/// # Errors
/// What is wrong with the model or a value in it, or why the file cannot be written. Nothing is left behind.
pub fn quantize(
    input: &Path,
    output: &Path,
    options: Options,
    pool: &Pool,
    mut progress: impl FnMut(u64, u64),
) -> Result<Summary, QuantizeError> {
    let gguf = Gguf::open_exact(input)?;
    if gguf.files.iter().any(|file| is_same_file(&file.path, output)) {
        return Err(QuantizeError::Same { path: output.to_owned() });
    }
    let plans = plan(&gguf, options)?;
    let to_bytes: u64 = plans.iter().map(bytes_of).sum();
    disk::check_room(disk::folder_of(output), to_bytes + (64 << 20))?;
    let part = PartFile::create(output)?;
    let in_output = |source| QuantizeError::Write { path: output.to_owned(), source };
    let out = BufWriter::with_capacity(1 << 20, part.file());
    let mut writer = Writer::new(out, &metadata(&gguf, options.mix), &plans).map_err(in_output)?;

    let (mut done, total) = (0, gguf.tensors.iter().map(|t| t.n_bytes).sum());
    let mut values = vec![0f32; PIECE as usize];
    std::thread::scope(|scope| {
        let (send, pieces) = mpsc::sync_channel(AHEAD);
        let source = &gguf;
        scope.spawn(move || read_ahead(source, &send));
        for piece in pieces {
            let piece = piece?;
            let (tensor, plan) = (&gguf.tensors[piece.tensor], &plans[piece.tensor]);
            done += piece.bytes.len() as u64;
            let converted = if tensor.ty == plan.ty {
                piece.bytes
            } else {
                convert(pool, &piece, tensor, plan.ty, &mut values[..piece.n as usize])?
            };
            writer.write(&tensor.name, &converted).map_err(in_output)?;
            progress(done, total);
        }
        Ok::<_, QuantizeError>(())
    })?;
    drop(writer.finish().map_err(in_output)?);
    let to_bytes = part.file().metadata().map_err(|e| DiskError::io(output, "cannot be measured", e))?.len();
    part.finish()?;
    Ok(Summary { from_bytes: gguf.file_bytes(), to_bytes })
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn bytes_of(plan: &TensorPlan) -> u64 {
    plan.ty.row_bytes(plan.shape[0]).unwrap_or(0).saturating_mul(plan.shape[1..].iter().product())
}

/// The tensors of the new file.
fn plan(gguf: &Gguf, options: Options) -> Result<Vec<TensorPlan>, QuantizeError> {
    let shape = mix::Shape::of(gguf)?;
    let plan = |tensor: &TensorInfo| {
        let (name, found) = (tensor.name.clone(), tensor.ty);
        let ty = mix::target(options.mix, options.pure, &shape, tensor);
        if ty != found && !found.is_computable() {
            return Err(QuantizeError::Format { name, found });
        }
        if ty != found && found.block_len() > 1 && !options.requantize {
            return Err(QuantizeError::Quantized { name, found, wanted: ty });
        }
        Ok(TensorPlan { name, shape: tensor.shape.clone(), ty })
    };
    gguf.tensors.iter().map(plan).collect()
}

/// The model's metadata with the new file's format, and without what made it a part of a split model.
fn metadata(gguf: &Gguf, mix: Mix) -> Metadata {
    let own = [
        ("general.quantization_version", Value::U32(QUANTIZATION_VERSION)),
        ("general.file_type", Value::U32(mix.file_type)),
    ];
    let is_kept = |key: &str| !key.starts_with("split.") && own.iter().all(|(own, _)| *own != key);
    let mut metadata = gguf.metadata.only(is_kept);
    for (key, value) in own {
        metadata.insert(key.to_owned(), value).expect("the new keys were left out");
    }
    metadata
}

/// Sends all tensors in pieces, until the other side has enough.
fn read_ahead(gguf: &Gguf, send: &mpsc::SyncSender<Result<Piece, QuantizeError>>) {
    for (index, tensor) in gguf.tensors.iter().enumerate() {
        let path = &gguf.files[tensor.file].path;
        let failed = |source| QuantizeError::Read { path: path.clone(), name: tensor.name.clone(), source };
        let opened = File::open(path).and_then(|mut file| {
            file.seek(SeekFrom::Start(tensor.offset))?;
            Ok(file)
        });
        let mut file = match opened {
            Ok(file) => file,
            Err(error) => {
                // Nobody listens any more: then nobody needs the error.
                let _ = send.send(Err(failed(error)));
                return;
            }
        };
        let n_elements = tensor.n_elements();
        for start in (0..n_elements).step_by(PIECE as usize) {
            let n = PIECE.min(n_elements - start);
            let n_bytes = n / tensor.ty.block_len() as u64 * tensor.ty.block_bytes() as u64;
            let mut bytes = vec![0; n_bytes as usize];
            let read = file.read_exact(&mut bytes).map_err(failed);
            let failed = read.is_err();
            if send.send(read.map(|()| Piece { tensor: index, start, n, bytes })).is_err() || failed {
                return;
            }
        }
    }
}

/// The piece in format `ty`. `values`: room for its elements.
fn convert(
    pool: &Pool,
    piece: &Piece,
    tensor: &TensorInfo,
    ty: GgmlType,
    values: &mut [f32],
) -> Result<Vec<u8>, QuantizeError> {
    let from = |n: usize| n / tensor.ty.block_len() * tensor.ty.block_bytes();
    let to = |n: usize| n / ty.block_len() * ty.block_bytes();
    pool.for_chunks(values, GRAIN, |i, values| {
        tensor.ty.dequantize(&piece.bytes[from(i * GRAIN)..][..from(values.len())], values);
    });
    // Beyond the largest half a scale would be infinite.
    let limit = if matches!(ty, GgmlType::F32 | GgmlType::BF16) { f32::MAX } else { 65504.0 };
    if let Some(at) = values.iter().position(|v| v.is_nan() || v.abs() > limit) {
        let (name, value) = (tensor.name.clone(), values[at]);
        return Err(QuantizeError::Value { name, value, element: piece.start + at as u64, wanted: ty });
    }
    let values = &*values;
    let mut out = vec![0; to(values.len())];
    pool.for_chunks(&mut out, to(GRAIN), |i, out| {
        let n = out.len() / ty.block_bytes() * ty.block_len();
        ty.quantize(&values[i * GRAIN..][..n], out);
    });
    Ok(out)
}
