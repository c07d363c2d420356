use std::fs;
use std::path::Path;

use super::writer::{TensorPlan, WriteError, Writer};
use super::*;

fn plan(name: &str, shape: &[u64], ty: GgmlType) -> TensorPlan {
    TensorPlan { name: name.to_owned(), shape: shape.to_vec(), ty }
}

fn metadata(entries: impl IntoIterator<Item = (&'static str, Value)>) -> Metadata {
    let mut metadata = Metadata::default();
    for (key, value) in entries {
        metadata.insert(key.to_owned(), value).unwrap();
    }
    metadata
}

fn text(s: &str) -> Value {
    Value::String(s.to_owned())
}

/// The model as a file in memory; every tensor is filled with its index.
fn write(metadata: &Metadata, tensors: &[TensorPlan]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), metadata, tensors).unwrap();
    for (i, t) in tensors.iter().enumerate() {
        let rows: u64 = t.shape[1..].iter().product();
        let n_bytes = t.ty.row_bytes(t.shape[0]).unwrap() * rows;
        writer.write(&t.name, &vec![i as u8; n_bytes as usize]).unwrap();
    }
    writer.finish().unwrap()
}

/// Bytes of a file put together by hand, to say what the writer would not.
#[derive(Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn header(version: u32, n_tensors: u64, n_entries: u64) -> Raw {
        Raw(b"GGUF".to_vec()).u32(version).u64(n_tensors).u64(n_entries)
    }

    fn u32(mut self, x: u32) -> Raw {
        self.0.extend(x.to_le_bytes());
        self
    }

    fn u64(mut self, x: u64) -> Raw {
        self.0.extend(x.to_le_bytes());
        self
    }

    fn str(self, s: impl AsRef<[u8]>) -> Raw {
        let s = s.as_ref();
        self.u64(s.len() as u64).bytes(s)
    }

    fn bytes(mut self, bytes: &[u8]) -> Raw {
        self.0.extend(bytes);
        self
    }

    fn tensor(self, name: &str, shape: &[u64], id: u32, offset: u64) -> Raw {
        let raw = self.str(name).u32(shape.len() as u32);
        shape.iter().fold(raw, |raw, &dim| raw.u64(dim)).u32(id).u64(offset)
    }

    /// Pads to the data and adds `n` bytes of it.
    fn data(mut self, n: usize) -> Raw {
        self.0.resize(self.0.len().next_multiple_of(32) + n, 0);
        self
    }

    fn error(&self) -> String {
        Gguf::parse(&self.0).unwrap_err().to_string()
    }
}

fn every_value() -> Metadata {
    metadata([
        ("general.architecture", text("llama")),
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-100)),
        ("u16", Value::U16(60_000)),
        ("i16", Value::I16(-30_000)),
        ("u32", Value::U32(4_000_000_000)),
        ("i32", Value::I32(-2_000_000_000)),
        ("f32", Value::F32(1.5e-30)),
        ("bool", Value::Bool(true)),
        ("string", text("größe 尺寸")),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f64", Value::F64(1e300)),
        ("u8s", Value::Array(Array::U8(vec![1, 255]))),
        ("i8s", Value::Array(Array::I8(vec![-1, 1]))),
        ("u16s", Value::Array(Array::U16(vec![1, 65_535]))),
        ("i16s", Value::Array(Array::I16(vec![-1, 1]))),
        ("u32s", Value::Array(Array::U32((0..50_000).collect()))),
        ("i32s", Value::Array(Array::I32(vec![-1, 1]))),
        ("f32s", Value::Array(Array::F32(vec![f32::MAX, -0.5]))),
        ("bools", Value::Array(Array::Bool(vec![true, false, true]))),
        ("strings", Value::Array(Array::String((0..20_000).map(|i| format!("token {i}")).collect()))),
        ("u64s", Value::Array(Array::U64((0..30_000).collect()))),
        ("i64s", Value::Array(Array::I64(vec![-1, i64::MAX]))),
        ("f64s", Value::Array(Array::F64(vec![0.1, 1e-300]))),
        ("empty", Value::Array(Array::String(vec![]))),
        ("arrays", Value::Array(Array::Array(vec![Array::I32(vec![1, 2]), Array::String(vec!["a".to_owned()])]))),
    ])
}

#[test]
fn what_is_written_is_read_back() {
    let plans = [
        plan("token_embd.weight", &[256, 3], GgmlType::Q4_K),
        plan("blk.0.ffn_gate_exps.weight", &[32, 5, 4], GgmlType::Q8_0),
        plan("output_norm.weight", &[7], GgmlType::F32),
    ];
    let bytes = write(&every_value(), &plans);
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.version, 3);
    assert!(gguf.metadata.iter().eq(every_value().iter()));
    assert_eq!(gguf.parameters(), 768 + 640 + 7);
    assert_eq!(gguf.file_bytes(), bytes.len() as u64);
    for (i, plan) in plans.iter().enumerate() {
        let tensor = gguf.tensor(&plan.name).unwrap();
        assert_eq!((&tensor.name, &tensor.shape, tensor.ty), (&plan.name, &plan.shape, plan.ty));
        assert!(tensor.offset.is_multiple_of(32));
        let data = &bytes[tensor.offset as usize..][..tensor.n_bytes as usize];
        assert!(data.iter().all(|&b| b == i as u8));
    }
    assert_eq!(gguf.tensor("output.weight"), None);
}

#[test]
fn the_data_follows_the_alignment_of_the_file() {
    let plans = [plan("a", &[3], GgmlType::F32), plan("b", &[3], GgmlType::F32)];
    let bytes = write(&metadata([("general.alignment", Value::U32(4096))]), &plans);
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.tensors.iter().map(|t| t.offset).collect::<Vec<_>>(), [4096, 8192]);
    for alignment in [0u32, 3, 33, 1 << 30] {
        let odd = metadata([("general.alignment", Value::U32(alignment))]);
        assert!(matches!(Writer::new(Vec::new(), &odd, &plans), Err(WriteError::Invalid(GgufError::Alignment { .. }))));
        let raw = Raw::header(3, 0, 1).str("general.alignment").u32(4).u32(alignment);
        assert!(raw.error().contains("general.alignment"), "{}", raw.error());
    }
}

#[test]
fn the_writer_keeps_to_its_plan() {
    let plans = [plan("a", &[4], GgmlType::F32), plan("b", &[4], GgmlType::F32)];
    let writer = || Writer::new(Vec::new(), &Metadata::default(), &plans).unwrap();
    assert!(matches!(writer().write("b", &[0; 16]), Err(WriteError::Order { .. })));
    assert!(matches!(writer().write("a", &[0; 17]), Err(WriteError::Length { .. })));
    let mut pieces = writer();
    for piece in [&[1; 5][..], &[1; 11]] {
        pieces.write("a", piece).unwrap();
    }
    assert!(matches!(pieces.finish(), Err(WriteError::Length { name, .. }) if name == "b"));
}

#[test]
fn version_2_reads_as_3_does_and_version_1_with_its_narrow_counts() {
    let mut bytes = write(&every_value(), &[plan("a", &[4], GgmlType::F32)]);
    bytes[4] = 2;
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.version, 2);
    assert!(gguf.metadata.iter().eq(every_value().iter()));

    let v1 = Raw(b"GGUF".to_vec()).u32(1).u32(1).u32(1);
    let v1 = v1.u32(4).bytes(b"some").u32(9).u32(8).u32(2).u32(1).bytes(b"x").u32(2).bytes(b"yz");
    let v1 = v1.u32(1).bytes(b"t").u32(2).u32(4).u32(2).u32(0).u64(0).data(32);
    let gguf = Gguf::parse(&v1.0).unwrap();
    assert_eq!((gguf.version, gguf.tensors[0].shape.as_slice()), (1, &[4u64, 2][..]));
    assert_eq!(gguf.metadata.strings("some").unwrap().unwrap(), ["x", "yz"]);
}

#[test]
fn what_is_no_gguf_is_refused_with_a_hint() {
    for (bytes, word) in [
        (&b""[..], "empty"),
        (b"GG", "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"<!DOCTYPE html>", "web page"),
        (b"tjgg\x03\x00\x00\x00", "older"),
        (b"GGUF\x00\x00\x00\x03\x00\x00\x00\x00", "big-endian"),
        (b"GGUF\x04\x00\x00\x00", "version 4"),
        (b"GGUF\x03\x00\x00\x00", "ends too early"),
        (b"\x1b[2J", "\\x1b"),
    ] {
        let error = Gguf::parse(bytes).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert!(!error.contains(char::is_control), "{error:?}");
    }
}

#[test]
fn counts_and_lengths_beyond_the_file_are_refused_before_they_cost_memory() {
    for n in [1, 1000, 1 << 20, 1 << 33, 1 << 61, u64::MAX] {
        for raw in [
            Raw::header(3, n, 0),
            Raw::header(3, 0, n),
            Raw::header(3, 0, 1).u64(n),
            Raw::header(3, 0, 1).str("key").u32(8).u64(n),
            Raw::header(3, 0, 1).str("key").u32(9).u32(0).u64(n),
            Raw::header(3, 0, 1).str("key").u32(9).u32(8).u64(n),
            Raw::header(3, 0, 1).str("key").u32(9).u32(12).u64(n),
            Raw::header(3, 0, 1).str("key").u32(9).u32(9).u64(n),
        ] {
            let error = raw.error();
            assert!(error.contains("ends too early") || error.contains("at most"), "{error}");
        }
    }
    let error = Raw::header(3, 0, 1).str("tokenizer.chat_template").u32(8).u64(90).error();
    assert!(error.contains("`tokenizer.chat_template`"), "{error}");
}

#[test]
fn a_header_without_end_is_refused() {
    /// A file of 1 TB whose metadata is arrays of zeros.
    struct Endless(Vec<u8>, usize);
    impl std::io::Read for Endless {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            for b in &mut *buf {
                *b = self.0.get(self.1).copied().unwrap_or(0);
                self.1 += 1;
            }
            Ok(buf.len())
        }
    }
    let raw = Raw::header(3, 0, 1).str("zeros").u32(9).u32(12).u64(32 << 20);
    let error = header::read(Endless(raw.0, 0), 1 << 40, Text::Shown).unwrap_err().to_string();
    assert!(error.contains("header of more than"), "{error}");
}

#[test]
fn damaged_metadata_is_refused_by_name_and_place() {
    let entry = |key: &str| Raw::header(3, 0, 1).str(key);
    for (raw, words) in [
        (entry("k").u32(13).u32(0), ["`k`", "type 13"]),
        (entry("k").u32(9).u32(99).u64(0), ["`k`", "type 99"]),
        (entry("k").u32(7).bytes(&[2]), ["`k`", "expected 0 or 1"]),
        (entry("k").u32(9).u32(7).u64(3).bytes(&[0, 1, 7]), ["`k`", "is 7"]),
        (entry("").u32(4).u32(2), ["key at byte 24", "UTF-8"]),
        (entry("a\nb").u32(0).bytes(&[2]), ["a\\nb", "UTF-8"]),
        (Raw::header(3, 0, 1).str(b"\xff\x00").u32(0).bytes(&[2]), ["\\xff", "UTF-8"]),
        (Raw::header(3, 0, 2).str("k").u32(0).bytes(&[2]).str("k").u32(0).bytes(&[2]), ["`k`", "twice"]),
    ] {
        let error = raw.error();
        assert!(words.iter().all(|w| error.contains(w)), "{error}");
    }
    let deep = (0..6).fold(entry("deep").u32(9), |raw, _| raw.u32(9).u64(1)).u32(0).u64(0);
    assert!(deep.error().contains("nested"), "{}", deep.error());
}

#[test]
fn strings_that_are_half_characters_read_as_replacements() {
    let raw = Raw::header(3, 0, 1).str("k").u32(9).u32(8).u64(2).str(b"a\xe5\xb0").str("b");
    let gguf = Gguf::parse(&raw.0).unwrap();
    assert_eq!(gguf.metadata.strings("k").unwrap().unwrap(), ["a\u{fffd}", "b"]);
}

#[test]
fn impossible_tensors_are_refused_by_name() {
    let one = |shape: &[u64], id, offset| Raw::header(3, 1, 0).tensor("blk.0.x", shape, id, offset).data(128);
    for (raw, word) in [
        (one(&[], 0, 0), "0 dimensions"),
        (one(&[1, 1, 1, 1, 1], 0, 0), "5 dimensions"),
        (one(&[4, 0], 0, 0), "empty dimension"),
        (one(&[4], 4, 0), "unknown ggml type 4"),
        (one(&[4], 9999, 0), "unknown ggml type 9999"),
        (one(&[33], 8, 0), "whole blocks of 32"),
        (one(&[1 << 32, 1 << 32], 0, 0), "larger than any file"),
        (one(&[1 << 62, 3], 0, 0), "larger than any file"),
        (one(&[4], 0, 8), "multiple of 32"),
        (one(&[4], 0, u64::MAX - 31), "truncated"),
        (one(&[4], 0, 128), "truncated"),
        (one(&[33], 0, 0), "truncated"),
    ] {
        let error = raw.error();
        assert!(error.contains(word) && error.contains("`blk.0.x`"), "{error}");
    }
    assert!(Gguf::parse(&one(&[32], 0, 0).0).is_ok());

    let two = |name: &str, offset| {
        Raw::header(3, 2, 0).tensor("b", &[16], 0, 32).tensor(name, &[16], 0, offset).data(256).error()
    };
    assert!(two("b", 96).contains("twice"), "{}", two("b", 96));
    assert!(two("a", 0).contains("`a` and `b` share bytes"), "{}", two("a", 0));
    assert!(two("a", 32).contains("share bytes"), "{}", two("a", 32));
    assert!(two("a", 64).contains("`b` and `a` share bytes"), "{}", two("a", 64));
}

/// Writes a model of three parts with a tensor each, and hands out their folder.
fn split_model(change: impl Fn(u16, &mut Vec<(&'static str, Value)>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for no in 0..3u16 {
        let mut entries = vec![("split.no", Value::U16(no)), ("split.count", Value::U16(3))];
        entries.push(("split.tensors.count", Value::I32(3)));
        if no == 0 {
            entries.push(("general.architecture", text("llama")));
        }
        change(no, &mut entries);
        let bytes = write(&metadata(entries), &[plan(&format!("blk.{no}.x"), &[4 + u64::from(no)], GgmlType::F32)]);
        fs::write(folder.path().join(format!("m-{:05}-of-00003.gguf", no + 1)), bytes).unwrap();
    }
    folder
}

fn part(folder: &tempfile::TempDir, part: u16) -> PathBuf {
    folder.path().join(format!("m-{part:05}-of-00003.gguf"))
}

fn open_error(path: &Path) -> String {
    Gguf::open(path).unwrap_err().to_string()
}

#[test]
fn a_split_model_opens_from_any_of_its_names() {
    let folder = split_model(|_, _| {});
    for i in 1..=3 {
        let gguf = Gguf::open(part(&folder, i)).unwrap();
        assert_eq!(gguf.metadata.str("general.architecture").unwrap(), Some("llama"));
        assert_eq!(gguf.files.iter().map(|f| f.path.clone()).collect::<Vec<_>>(), [1, 2, 3].map(|i| part(&folder, i)));
        assert_eq!(gguf.tensors.iter().map(|t| t.file).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(gguf.tensor("blk.2.x").unwrap().shape, [6]);
        assert_eq!(gguf.parameters(), 15);
    }
}

#[test]
fn a_missing_foreign_or_mixed_up_part_is_named() {
    let folder = split_model(|_, _| {});
    fs::remove_file(part(&folder, 2)).unwrap();
    let error = open_error(&part(&folder, 3));
    assert!(error.contains("m-00002-of-00003.gguf: is missing"), "{error}");

    let folder = split_model(|_, _| {});
    fs::copy(part(&folder, 3), part(&folder, 2)).unwrap();
    let error = open_error(&part(&folder, 1));
    assert!(error.contains("m-00002-of-00003.gguf: is named as part 2 of 3"), "{error}");
    assert!(error.contains("says part 3 of 3"), "{error}");

    let foreign = if_part(2, ("general.architecture", text("qwen2")));
    let error = open_error(&part(&split_model(foreign), 3));
    assert!(error.contains("m-00003-of-00003.gguf: belongs to another model"), "{error}");
    assert!(error.contains("`general.architecture`"), "{error}");

    let folder = split_model(|_, _| {});
    let short = write(&metadata([("split.no", Value::U16(1)), ("split.count", Value::U16(3))]), &[]);
    fs::write(part(&folder, 2), short).unwrap();
    let error = open_error(&part(&folder, 1));
    assert!(error.contains("2 tensors together, expected 3"), "{error}");

    let folder = split_model(|_, _| {});
    fs::write(part(&folder, 2), write(&Metadata::default(), &[])).unwrap();
    let error = open_error(&part(&folder, 1));
    assert!(error.contains("m-00002-of-00003.gguf") && error.contains("no `split.no`"), "{error}");

    let folder = split_model(|_, _| {});
    let renamed = folder.path().join("renamed.gguf");
    fs::rename(part(&folder, 2), &renamed).unwrap();
    let error = open_error(&renamed);
    assert!(error.contains("does not end in `-00002-of-00003.gguf`"), "{error}");
}

fn if_part(no: u16, entry: (&'static str, Value)) -> impl Fn(u16, &mut Vec<(&'static str, Value)>) {
    move |n, entries| entries.extend((n == no).then(|| entry.clone()))
}

#[test]
fn a_tensor_in_two_parts_is_refused() {
    let folder = split_model(|_, _| {});
    let entries = [("split.no", Value::U16(1)), ("split.count", Value::U16(3))];
    let bytes = write(&metadata(entries), &[plan("blk.0.x", &[4], GgmlType::F32)]);
    fs::write(part(&folder, 2), bytes).unwrap();
    let error = open_error(&part(&folder, 1));
    assert!(error.contains("m-00002-of-00003.gguf: tensor `blk.0.x`"), "{error}");
}

#[test]
fn what_is_no_file_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    assert!(open_error(folder.path()).contains("not a regular file"));
    let absent = folder.path().join("absent.gguf");
    assert!(open_error(&absent).contains("absent.gguf: cannot be opened"), "{}", open_error(&absent));
}

#[test]
fn the_reference_models_open() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/models");
    let Ok(models) = fs::read_dir(&models) else {
        println!("SKIP: {} is absent", models.display());
        return;
    };
    for model in models.map(|m| m.unwrap().path()) {
        let gguf = Gguf::open(&model).unwrap();
        assert_eq!(gguf.metadata.strings("tokenizer.ggml.tokens").unwrap().unwrap().len(), 512);
        assert!(gguf.tensor("token_embd.weight").is_some());
        let data: u64 = gguf.tensors.iter().map(|t| t.n_bytes).sum();
        assert!(gguf.file_bytes() - data < 64 << 10, "{}: most of a model is weights", model.display());
    }
}
