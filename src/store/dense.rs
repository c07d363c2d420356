//! What every token needs, read in at once: the dense weights, in the order of the file, by several threads with a large
//! read each, so that the first pass waits for a disk that is busy and not for one page after the other.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use super::mapping::{FileRange, ModelFile, is_expert_tensor, layer_of};
use crate::gguf::TensorInfo;

/// Bytes that a thread asks for and waits for at a time.
const PIECE_BYTES: u64 = 4 << 20;
/// Threads that read. They compute nothing.
const N_THREADS: usize = 4;

impl ModelFile {
    /// Reads in the dense weights as far as `most` bytes, and maps them, so that touching them waits for nothing. Calls
    /// `on_read` with the bytes of each piece. Ends early when `stop` says so or a read fails: what is missing is read,
    /// or complained of, when it is touched.
    pub fn read_dense(&self, most: u64, stop: &AtomicBool, on_read: impl Fn(u64) + Sync) {
        let mut left = most;
        let mut pieces = self.dense_pieces();
        pieces.retain(|piece| {
            left = left.saturating_sub(piece.n_bytes);
            left > 0
        });
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let read = || {
            while let Some(&piece) = pieces.get(next.fetch_add(1, Relaxed)) {
                if stop.load(Relaxed) || failed.load(Relaxed) {
                    return;
                }
                self.will_need(piece);
                if self.populate(piece).is_err() {
                    failed.store(true, Relaxed);
                    return;
                }
                on_read(piece.n_bytes);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..N_THREADS.min(pieces.len()) {
                // Where no thread can be started, those that there are read it all.
                let _ = std::thread::Builder::new().name("weights".into()).spawn_scoped(scope, read);
            }
            read();
        });
    }

    /// The dense weights in the order in which they lie, cut into pieces.
    fn dense_pieces(&self) -> Vec<FileRange> {
        let mut dense: Vec<_> = self.gguf().tensors.iter().filter(|t| !is_expert_tensor(t)).collect();
        dense.sort_by_key(|t| (t.file, t.offset));
        let pieces = dense.into_iter().flat_map(|&TensorInfo { file, offset, n_bytes, .. }| {
            let starts = (offset..offset + n_bytes).step_by(PIECE_BYTES as usize);
            starts.map(move |at| FileRange { file, offset: at, n_bytes: PIECE_BYTES.min(offset + n_bytes - at) })
        });
        pieces.collect()
    }
}

/// The layers of a dense model that is larger than memory: the first ones stay, the others are read for every pass, one
/// ahead of its use, and dropped behind it. To keep what was used last, as the page cache would, is to keep nothing: every
/// pass needs all layers in the same order.
#[derive(Debug)]
pub struct DenseStream<'m> {
    model: &'m ModelFile,
    /// What is read anew of each layer; empty for those that stay.
    layers: Vec<Vec<FileRange>>,
    kept_bytes: u64,
}

impl<'m> DenseStream<'m> {
    /// Keeps as many layers as fit in `budget` bytes beside all other tensors and two layers on their way.
    pub fn new(model: &'m ModelFile, n_layers: usize, budget: u64) -> DenseStream<'m> {
        let mut layers = vec![Vec::new(); n_layers];
        let mut kept_bytes = 0;
        for &TensorInfo { ref name, file, offset, n_bytes, .. } in &model.gguf().tensors {
            match layer_of(name).and_then(|layer| layers.get_mut(layer)) {
                Some(layer) => layer.push(FileRange { file, offset, n_bytes }),
                None => kept_bytes += n_bytes,
            }
        }
        let bytes = |layer: &[FileRange]| layer.iter().map(|range| range.n_bytes).sum::<u64>();
        let passing = 2 * layers.iter().map(|layer| bytes(layer)).max().unwrap_or(0);
        for layer in &mut layers {
            let n_bytes = bytes(layer);
            if kept_bytes + n_bytes + passing > budget {
                break;
            }
            kept_bytes += n_bytes;
            layer.clear();
        }
        DenseStream { model, layers, kept_bytes }
    }

    /// Bytes that stay in memory.
    pub fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// Layer `i` is computed next: the one after it is to be read meanwhile, in a circle.
    pub fn begin(&self, i: usize) {
        self.layers[(i + 1) % self.layers.len()].iter().for_each(|&range| self.model.will_need(range));
    }

    /// Layer `i` was computed.
    pub fn end(&self, i: usize) {
        self.layers[i].iter().for_each(|&range| self.model.drop_pages(range));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::gguf::Metadata;
    use crate::gguf::writer::{TensorPlan, Writer};
    use crate::quant::GgmlType;
    use crate::store::Residency;

    /// A file on a disk, as this test is, of 9 MB of dense weights with experts between them, out of memory.
    fn model() -> (tempfile::NamedTempFile, ModelFile) {
        let beside = std::env::current_exe().unwrap();
        let file = tempfile::NamedTempFile::new_in(beside.parent().unwrap()).unwrap();
        let plan = |name: &str, shape: &[u64]| TensorPlan { name: name.into(), shape: shape.into(), ty: GgmlType::I8 };
        let plans = [
            plan("token_embd.weight", &[5 << 20]),
            plan("blk.0.ffn_up_exps.weight", &[1 << 20, 1, 16]),
            plan("output.weight", &[4 << 20]),
        ];
        let mut writer = Writer::new(file.as_file(), &Metadata::default(), &plans).unwrap();
        for plan in &plans {
            writer.write(&plan.name, &vec![1; plan.shape.iter().product::<u64>() as usize]).unwrap();
        }
        writer.finish().unwrap().sync_all().unwrap();
        rustix::fs::fadvise(file.as_file(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let model = ModelFile::open(file.path()).unwrap();
        (file, model)
    }

    #[test]
    fn dense_weights_are_read_in_and_experts_are_not() {
        let (_file, model) = model();
        let read = AtomicU64::new(0);
        model.read_dense(u64::MAX, &AtomicBool::new(false), |n| _ = read.fetch_add(n, Relaxed));
        assert_eq!(read.load(Relaxed), 9 << 20);
        let residency = Residency::new(&model);
        if residency.source().is_none() {
            println!("SKIP: this kernel does not say what is resident");
            return;
        }
        let of = |name: &str| {
            let &TensorInfo { file, offset, n_bytes, .. } = model.gguf().tensor(name).unwrap();
            residency.resident_bytes(FileRange { file, offset, n_bytes }).unwrap()
        };
        assert_eq!([of("token_embd.weight"), of("output.weight")], [5 << 20, 4 << 20]);
        assert!(of("blk.0.ffn_up_exps.weight") < 2 << 20, "{}", of("blk.0.ffn_up_exps.weight"));
    }

    #[test]
    fn of_a_model_larger_than_memory_the_first_layers_stay_and_the_others_pass_through() {
        let beside = std::env::current_exe().unwrap();
        let file = tempfile::NamedTempFile::new_in(beside.parent().unwrap()).unwrap();
        let names = ["output.weight", "blk.0.x", "blk.1.x", "blk.2.x", "blk.3.x"];
        let plan = |name: &&str| TensorPlan { name: (*name).into(), shape: vec![1 << 20], ty: GgmlType::I8 };
        let plans = names.each_ref().map(plan);
        let mut writer = Writer::new(file.as_file(), &Metadata::default(), &plans).unwrap();
        names.iter().for_each(|name| writer.write(name, &vec![1; 1 << 20]).unwrap());
        writer.finish().unwrap().sync_all().unwrap();
        rustix::fs::fadvise(file.as_file(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let model = ModelFile::open(file.path()).unwrap();
        let stream = DenseStream::new(&model, 4, 4 << 20);
        assert_eq!(stream.kept_bytes(), 2 << 20);
        for i in 0..4 {
            stream.begin(i);
            let tensor = model.gguf().tensor(&format!("blk.{i}.x")).unwrap();
            assert!(model.tensor_bytes(tensor).iter().all(|&byte| byte == 1));
            stream.end(i);
        }
        let residency = Residency::new(&model);
        if residency.source().is_none() {
            println!("SKIP: this kernel does not say what is resident");
            return;
        }
        let resident = |name: &str| {
            let &TensorInfo { file, offset, n_bytes, .. } = model.gguf().tensor(name).unwrap();
            residency.resident_bytes(FileRange { file, offset, n_bytes }).unwrap() >> 16
        };
        assert_eq!(resident("blk.0.x"), 16);
        assert!(["blk.1.x", "blk.2.x", "blk.3.x"].iter().all(|name| resident(name) <= 2));
        assert_eq!(DenseStream::new(&model, 4, 99 << 20).kept_bytes(), 5 << 20);
    }

    #[test]
    fn reading_ends_where_it_is_told_to_and_where_the_file_does() {
        let (file, model) = model();
        let read = AtomicU64::new(0);
        let on_read = |n| _ = read.fetch_add(n, Relaxed);
        model.read_dense(u64::MAX, &AtomicBool::new(true), on_read);
        assert_eq!(read.load(Relaxed), 0);
        model.read_dense(6 << 20, &AtomicBool::new(false), on_read);
        assert_eq!(read.load(Relaxed), 5 << 20, "a piece that would be too much is left out");
        file.as_file().set_len(1 << 20).unwrap();
        model.read_dense(u64::MAX, &AtomicBool::new(false), on_read);
        assert_eq!(read.load(Relaxed), 5 << 20);
    }
}
