//! Reads a trace, which may come from anywhere: every number is checked against the shape in its header, and the memory
//! used is bounded by the file's own length.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Demand, Item, LayerRecord, LayerShape, MAGIC, MAX_NAME_BYTES, Outcome, Pass, Shape, VERSION};
use crate::telemetry::LayerCost;

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("{}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("the trace cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("this is no trace; record one with --trace FILE")]
    NotATrace,
    #[error("the trace has version {found}, and this program reads versions {OLDEST} to {VERSION}; record it again")]
    Version { found: u64 },
    #[error("the trace has more than {max_demands} uses of experts, too many to replay; record a shorter one")]
    TooLong { max_demands: usize },
    #[error("the trace is damaged at byte {offset}: {what}; record it again")]
    Damaged { offset: u64, what: String },
}

/// The first version.
const OLDEST: u64 = 1;
/// The first that has weights, and layers that nobody counted.
const WEIGHED: u64 = 2;
const MAX_LAYERS: u64 = 4096;
const MAX_EXPERTS: u64 = 1 << 16;
/// So that no sum over a trace leaves 64 bits.
const MAX_SLOT_BYTES: u64 = 1 << 36;
const MAX_BYTES: u64 = 1 << 56;
const MAX_TOKENS: u64 = 1 << 24;
/// A pass of all experts of all layers, many times over.
const MAX_FRAME_BYTES: u64 = 64 << 20;

/// The passes of a trace, in order.
#[derive(Debug)]
pub struct TraceReader<R> {
    input: R,
    version: u64,
    shape: Shape,
    /// Of the next byte of the input.
    pub(super) offset: u64,
    frame: Vec<u8>,
    /// Where each layer's record is in the pass at hand, or `NOWHERE`.
    places: Vec<u32>,
    cut_off: bool,
}

const NOWHERE: u32 = u32::MAX;

impl TraceReader<BufReader<File>> {
    /// Opens a trace and reads its header.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let failed = |source| TraceError::Open { path: path.to_owned(), source };
        TraceReader::new(BufReader::new(File::open(path).map_err(failed)?))
    }
}

impl<R: Read> TraceReader<R> {
    /// Reads the header.
    pub fn new(mut input: R) -> Result<TraceReader<R>, TraceError> {
        let mut magic = [0; MAGIC.len()];
        match input.read_exact(&mut magic) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            Ok(()) if magic == MAGIC => {}
            _ => return Err(TraceError::NotATrace),
        }
        let offset = MAGIC.len() as u64;
        let (shape, frame, places) = (Shape::default(), Vec::new(), Vec::new());
        let version = VERSION;
        let mut reader = TraceReader { input, version, shape, offset, frame, places, cut_off: false };
        reader.version = match reader.header_number("version", u64::MAX)? {
            known @ OLDEST..=VERSION => known,
            found => return Err(TraceError::Version { found }),
        };
        let n_name = reader.header_number("length of the name", MAX_NAME_BYTES as u64)?;
        let mut name = vec![0; n_name as usize];
        reader.input.read_exact(&mut name).map_err(|e| reader.ended(e))?;
        reader.offset += n_name;
        let name = String::from_utf8(name).map_err(|_| reader.damaged("the name is not UTF-8"))?;
        let n_used = reader.header_number("experts used", MAX_EXPERTS)? as u32;
        let dense_bytes = reader.header_number("dense bytes", MAX_BYTES)?;
        let n_layers = reader.header_number("layers", MAX_LAYERS)?;
        let mut layers = Vec::with_capacity(n_layers as usize);
        for _ in 0..n_layers {
            let n_experts = reader.header_number("experts", MAX_EXPERTS)? as u32;
            let slot_bytes = reader.header_number("bytes of an expert", MAX_SLOT_BYTES)?;
            layers.push(LayerShape { n_experts, slot_bytes });
        }
        reader.places = vec![NOWHERE; layers.len()];
        reader.shape = Shape { name, n_used, dense_bytes, layers };
        match reader.shape.expert_bytes() {
            all if all > MAX_BYTES => Err(reader.damaged(&format!("experts of {all} bytes"))),
            _ => Ok(reader),
        }
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Whether the trace ended within a pass, as it does when the process that wrote it is killed. Known at the end.
    pub fn cut_off(&self) -> bool {
        self.cut_off
    }

    /// The next pass; `None` at the end of the trace, or where it was cut off.
    pub fn next_pass(&mut self) -> Result<Option<Pass>, TraceError> {
        if self.cut_off {
            return Ok(None);
        }
        let Some(length) = self.frame_length()? else { return Ok(None) };
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        let start = self.offset;
        self.input.by_ref().take(length).read_to_end(&mut frame)?;
        self.offset += frame.len() as u64;
        self.cut_off = (frame.len() as u64) < length;
        let items = Items { bytes: &frame, at: 0, start, shape: &self.shape, version: self.version };
        let pass = (!self.cut_off).then(|| items.pass(&mut self.places));
        self.frame = frame;
        if matches!(pass, Some(Err(_))) {
            self.places.fill(NOWHERE);
        }
        pass.transpose()
    }

    /// `None` at the end of the file.
    fn frame_length(&mut self) -> Result<Option<u64>, TraceError> {
        let mut length = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let Some(byte) = self.byte()? else {
                self.cut_off = shift > 0;
                return Ok(None);
            };
            length |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                break;
            }
        }
        if length > MAX_FRAME_BYTES {
            return Err(self.damaged(&format!("a pass of {length} bytes, more than {MAX_FRAME_BYTES}")));
        }
        Ok(Some(length))
    }

    fn byte(&mut self) -> Result<Option<u8>, TraceError> {
        let mut byte = [0];
        loop {
            match self.input.read(&mut byte) {
                Ok(n) => {
                    self.offset += n as u64;
                    return Ok((n == 1).then_some(byte[0]));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn header_number(&mut self, what: &str, max: u64) -> Result<u64, TraceError> {
        let mut bytes = Vec::with_capacity(10);
        while bytes.len() < 10 && bytes.last().is_none_or(|b| b & 0x80 != 0) {
            let byte = self.byte()?.ok_or_else(|| self.damaged("the header ends early"))?;
            bytes.push(byte);
        }
        Items {
            bytes: &bytes,
            at: 0,
            start: self.offset - bytes.len() as u64,
            shape: &self.shape,
            version: self.version,
        }
        .number(what, max)
    }

    fn ended(&self, error: io::Error) -> TraceError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("the header ends early"),
            _ => error.into(),
        }
    }

    fn damaged(&self, what: &str) -> TraceError {
        TraceError::Damaged { offset: self.offset, what: what.into() }
    }
}

/// The items of a frame.
struct Items<'f> {
    bytes: &'f [u8],
    at: usize,
    /// Offset of the frame in the file.
    start: u64,
    shape: &'f Shape,
    version: u64,
}

impl Items<'_> {
    /// `places`: `NOWHERE` for every layer, before and after.
    fn pass(mut self, places: &mut [u32]) -> Result<Pass, TraceError> {
        let n_tokens = self.number("tokens of a pass", MAX_TOKENS)? as u32;
        if n_tokens == 0 {
            return Err(self.damaged("a pass without tokens"));
        }
        let mut pass = Pass { n_tokens, ..Pass::default() };
        while self.item(&mut pass, places)? != Item::End {}
        if self.at < self.bytes.len() {
            return Err(self.damaged(&format!("{} bytes after a pass", self.bytes.len() - self.at)));
        }
        pass.layers.iter().for_each(|record| places[record.layer as usize] = NOWHERE);
        pass.layers.sort_unstable_by_key(|record| record.layer);
        Ok(pass)
    }

    /// Reads the next item into the pass.
    fn item(&mut self, pass: &mut Pass, places: &mut [u32]) -> Result<Item, TraceError> {
        const KINDS: [Item; 6] =
            [Item::Demanded, Item::Predicted, Item::Times, Item::End, Item::Weighed, Item::Computed];
        let kinds = if self.version >= WEIGHED { &KINDS[..] } else { &KINDS[..4] };
        let number = self.number("kind of item", u64::MAX)?;
        let Some(&kind) = kinds.iter().find(|&&kind| kind as u64 == number) else {
            return Err(self.damaged(&format!("an item of kind {number}")));
        };
        if kind == Item::End {
            pass.wall_us = self.number("wall time", u64::MAX)?;
            let cancelled = self.number("outcome", 1)? == 1;
            pass.outcome = if cancelled { Outcome::Cancelled } else { Outcome::Whole };
            return Ok(kind);
        }
        let (layer, n_experts) = self.layer()?;
        let place = &mut places[layer as usize];
        if *place == NOWHERE {
            *place = pass.layers.len() as u32;
            pass.layers.push(LayerRecord { layer, ..LayerRecord::default() });
        }
        let record = &mut pass.layers[*place as usize];
        match kind {
            Item::Demanded => {
                record.demanded = self.demanded(n_experts, pass.n_tokens, None)?;
                record.weights.clear();
            }
            Item::Weighed if pass.n_tokens > 1 => {
                return Err(self.damaged(&format!("one token's weights in a pass of {}", pass.n_tokens)));
            }
            Item::Weighed => {
                record.weights.clear();
                record.demanded = self.demanded(n_experts, 1, Some(&mut record.weights))?;
            }
            Item::Predicted => {
                let n = self.number("predicted experts", n_experts)?;
                let expert = |_| Ok(self.number("predicted expert", n_experts.saturating_sub(1))? as u32);
                record.predicted = (0..n).map(expert).collect::<Result<_, TraceError>>()?;
            }
            Item::Times => {
                let stall = Some(self.micros("stall")?);
                let compute = self.micros("compute")?;
                let read_bytes = Some(self.number("bytes read", u64::MAX)?);
                record.cost = Some(LayerCost { compute, stall, read_bytes });
            }
            Item::Computed => {
                record.cost = Some(LayerCost { compute: self.micros("compute")?, ..LayerCost::default() });
            }
            Item::End => {}
        }
        Ok(kind)
    }

    /// A layer's number and how many experts it has.
    fn layer(&mut self) -> Result<(u32, u64), TraceError> {
        let n_layers = self.shape.layers.len() as u64;
        if n_layers == 0 {
            return Err(self.damaged("a layer of a model that has none"));
        }
        let number = self.number("layer", n_layers - 1)? as u32;
        Ok((number, self.shape.layers[number as usize].n_experts.into()))
    }

    /// `weights`: where they are put, if there are any.
    fn demanded(
        &mut self,
        n_experts: u64,
        n_tokens: u32,
        mut weights: Option<&mut Vec<f32>>,
    ) -> Result<Vec<Demand>, TraceError> {
        let n = self.number("demanded experts", n_experts)?;
        // Each takes a byte or more of what is there.
        let mut demanded = Vec::with_capacity((n as usize).min(self.bytes.len() - self.at));
        let mut next = 0;
        for _ in 0..n {
            let Some(last) = n_experts.checked_sub(next + 1) else {
                return Err(self.damaged(&format!("an expert after the last of {n_experts}")));
            };
            let expert = next + self.number("demanded expert", last)?;
            let of_it = if n_tokens > 1 { self.number("tokens of an expert", n_tokens.into())? as u32 } else { 1 };
            demanded.push(Demand { expert: expert as u32, n_tokens: of_it });
            if let Some(weights) = &mut weights {
                weights.push(self.weight()?);
            }
            next = expert + 1;
        }
        Ok(demanded)
    }

    fn weight(&mut self) -> Result<f32, TraceError> {
        let Some(&bytes) = self.bytes[self.at..].first_chunk() else {
            return Err(self.damaged("the weight of an expert is missing"));
        };
        self.at += bytes.len();
        Ok(f32::from_le_bytes(bytes))
    }

    fn micros(&mut self, what: &str) -> Result<Duration, TraceError> {
        Ok(Duration::from_micros(self.number(what, u64::MAX)?))
    }

    /// A varint of at most `max`.
    fn number(&mut self, what: &str, max: u64) -> Result<u64, TraceError> {
        let mut n = 0u128;
        for shift in (0..70).step_by(7) {
            let Some(&byte) = self.bytes.get(self.at) else {
                return Err(self.damaged(&format!("the {what} is missing")));
            };
            self.at += 1;
            n |= u128::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return match u64::try_from(n).ok().filter(|&n| n <= max) {
                    Some(n) => Ok(n),
                    None => Err(self.damaged(&format!("the {what} is {n}, expected at most {max}"))),
                };
            }
        }
        Err(self.damaged(&format!("the {what} is longer than 64 bits")))
    }

    fn damaged(&self, what: &str) -> TraceError {
        TraceError::Damaged { offset: self.start + self.at as u64, what: what.into() }
    }
}
