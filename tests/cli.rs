//! The command line as a person or a script uses it: exit codes, stdout alone for results, JSON keys that stay.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says why it skips")]

mod common;

use assert_cmd::Command;
use serde_json::Value;

const MIXTRAL: &str = "mixtral-Q4_K_M.gguf";

fn wayinfer(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("wayinfer").unwrap();
    command.args(arguments);
    command
}

fn model() -> String {
    common::data(MIXTRAL).to_str().unwrap().to_owned()
}

/// Runs a command that must succeed and gives its stdout.
fn stdout(arguments: &[&str]) -> String {
    let output = wayinfer(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(arguments)).unwrap()
}

/// Little-endian i32 ids in a file that lives as long as the folder.
fn ids_file(folder: &tempfile::TempDir, ids: &[i32]) -> String {
    let path = folder.path().join("ids");
    std::fs::write(&path, ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn run_writes_the_reply_alone_to_stdout_and_repeats_itself_by_seed() {
    let model = model();
    let run = |seed| stdout(&["run", &model, "-p", "hello", "--max-tokens", "24", "--seed", seed]);
    assert!(!run("1").trim().is_empty());
    assert_eq!(run("1"), run("1"));
    assert_ne!(run("1"), run("2"));
}

#[test]
fn run_reads_the_prompt_from_a_pipe() {
    let model = model();
    let piped = wayinfer(&["run", &model, "-p", "-", "--greedy", "--max-tokens", "8"])
        .write_stdin("hello there")
        .output()
        .unwrap();
    assert!(piped.status.success());
    let given = stdout(&["run", "--model", &model, "-p", "hello there", "--greedy", "--max-tokens", "8"]);
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), given);
}

#[test]
fn run_json_has_the_published_keys() {
    let report = json(&["run", &model(), "-p", "hello", "--greedy", "--max-tokens", "5", "--json"]);
    assert!(report["text"].is_string());
    assert!(report["prompt"]["tokens"].as_u64().unwrap() > 0);
    assert!(report["prompt"]["tok_s"].as_f64().unwrap() > 0.0);
    assert!(report["generate"]["tokens"].as_u64().unwrap() <= 5);
    assert!(report["generate"]["tok_s"].is_number());
    assert!(["max_tokens", "end_of_turn"].contains(&report["stop"].as_str().unwrap()));
    assert!(report.get("disk_read_bytes").is_some());
}

#[test]
fn run_takes_ids_and_gives_the_reference_continuation() {
    let expected: Value = serde_json::from_slice(&std::fs::read(common::data("mixtral-Q4_K_M.json")).unwrap()).unwrap();
    let numbers = |key: &str| -> Vec<i32> {
        expected[key].as_array().unwrap().iter().map(|x| x.as_i64().unwrap() as i32).collect()
    };
    let folder = tempfile::tempdir().unwrap();
    let ids = ids_file(&folder, &numbers("ids"));
    let report = json(&["run", &model(), "--ids-file", &ids, "--greedy", "--max-tokens", "1", "--json"]);
    let first = numbers("greedy")[0];
    let text = report["text"].as_str().unwrap().to_owned();
    let token = json(&["tokenize", &model(), &text, "--json"]);
    assert_eq!(token["ids"], serde_json::json!([first]), "{text}");
}

#[test]
fn logits_are_positions_by_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    let ids = ids_file(&folder, &[1, 2, 3]);
    let out = folder.path().join("out");
    stdout(&["logits", &model(), "--ids-file", &ids, "--out", out.to_str().unwrap()]);
    let logits = common::read_f32(&out);
    assert_eq!(logits.len(), 3 * 512);
    assert!(logits.iter().all(|x| x.is_finite()));
}

#[test]
fn bench_and_perplexity_report_what_they_measured() {
    let model = model();
    let bench = json(&["bench", &model, "-p", "16", "-n", "4", "-r", "2", "--json", "--isa", "scalar"]);
    for key in ["prompt", "generate"] {
        assert!(bench[key]["tok_s"].as_f64().unwrap() > 0.0, "{key}");
    }
    assert_eq!(bench["isa"], "scalar");
    assert!(bench["load_ms"].as_f64().unwrap() > 0.0);
    for key in ["peak_rss_bytes", "disk_read_bytes"] {
        assert!(bench.get(key).is_some(), "{key}");
    }
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "the quick brown fox ".repeat(60)).unwrap();
    let report = json(&["perplexity", &model, text.to_str().unwrap(), "--ctx", "64", "--json"]);
    assert!(report["perplexity"].as_f64().unwrap() > 1.0);
}

#[test]
fn tokenize_keeps_control_tokens_as_text_unless_asked() {
    let model = model();
    let plain = json(&["tokenize", &model, "<|im_end|>", "--json"]);
    assert!(plain["ids"].as_array().unwrap().len() > 1);
    let special = json(&["tokenize", &model, "<|im_end|>", "--special", "--json"]);
    assert_eq!(special["ids"], serde_json::json!([510]));
    let lines = stdout(&["tokenize", &model, "hello"]);
    assert!(lines.lines().all(|line| line.parse::<u32>().is_ok()));
}

#[test]
fn render_writes_the_conversation_through_the_models_template() {
    let folder = tempfile::tempdir().unwrap();
    let messages = folder.path().join("messages.json");
    std::fs::write(&messages, r#"[{"role": "user", "content": "hi"}]"#).unwrap();
    let messages = messages.to_str().unwrap();
    let text = stdout(&["render", &model(), "--messages", messages]);
    assert_eq!(text, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
    let text = stdout(&["render", &model(), "--messages", messages, "--no-generation-prompt"]);
    assert_eq!(text, "<|im_start|>user\nhi<|im_end|>\n");
    let template = folder.path().join("template");
    std::fs::write(&template, "{{ bos_token }}{{ strftime_now('%Y') }}{{ messages[0].content }}").unwrap();
    let given = ["render", "--template", template.to_str().unwrap(), "--messages", messages];
    let text = stdout(&[&given[..], &["--bos", "<s>", "--now", "2026-01-15T09:30:00"]].concat());
    assert_eq!(text, "<s>2026hi");
}

#[test]
fn inspect_tells_shapes_and_what_a_budget_means() {
    let report = json(&["inspect", &model(), "--ram", "1M", "--json"]);
    assert_eq!(report["metadata"]["general.architecture"], "llama");
    assert_eq!(report["runnable"], true);
    assert_eq!(report["budget"]["fits"], false);
    assert_eq!(report["budget"]["works"], false);
    assert!(report["budget"]["needed_bytes"].as_u64().unwrap() > report["budget"]["bytes"].as_u64().unwrap());
    assert!(report["tensors"].as_array().unwrap().iter().any(|t| t["name"] == "blk.0.ffn_up_exps.weight"));
    assert!(stdout(&["inspect", &model()]).contains("8 experts, 2 used"));
}

#[test]
fn a_trace_of_a_run_is_replayed_without_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let trace = trace.to_str().unwrap();
    let arguments = ["run", &model(), "-p", "hello", "--greedy", "--max-tokens", "9", "--json", "--trace", trace];
    let run = json(&arguments);
    let report = json(&["replay", trace, "--policy", "all", "--json"]);
    let runs = report["runs"].as_array().unwrap();
    let tokens = |run: &Value, part: &str| {
        ["cold", "warm"].iter().map(|phase| run[*phase][part]["tokens"].as_u64().unwrap()).sum::<u64>()
    };
    for replayed in runs {
        // The last token of a reply is not computed.
        assert_eq!(tokens(replayed, "generate"), run["generate"]["tokens"].as_u64().unwrap() - 1);
        assert_eq!(tokens(replayed, "prompt"), run["prompt"]["tokens"].as_u64().unwrap());
    }
    assert!(runs.iter().any(|run| run["policy"] == "optimal"));
    assert!(stdout(&["replay", trace, "--per-layer"]).contains("hits of single tokens"));
    let one = json(&["replay", trace, "--ram", "1G", "--policy", "lru", "--scope", "layer", "--json"]);
    assert_eq!(one["runs"].as_array().unwrap().len(), 1);
    for (arguments, code) in [(["--policy", "fifo"], 2), (["--ram", "1"], 2)] {
        let output = wayinfer(&[&["replay", trace], &arguments[..]].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let no_trace = wayinfer(&["replay", &model()]).output().unwrap();
    assert_eq!(no_trace.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&no_trace.stderr).contains("no trace"));
}

#[test]
fn exit_codes_tell_wrong_use_from_failure() {
    let model = model();
    let code = |arguments: &[&str]| {
        let output = wayinfer(arguments).write_stdin("").output().unwrap();
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
        output.status.code().unwrap()
    };
    assert_eq!(code(&["run", "/nowhere/model.gguf", "-p", "hi"]), 1);
    assert_eq!(code(&["run", &model, "-p", "hi", "--temp", "-3"]), 2);
    assert_eq!(code(&["run", "-p", "hi"]), 2);
    assert_eq!(code(&["run", &model, "--no-such-option"]), 2);
    assert_eq!(code(&["run", &model, "-p", ""]), 2);
    assert_eq!(code(&["run", &model, "--isa", "mmx", "-p", "hi"]), 2);
    assert_eq!(code(&["logits", &model, "--ids-file", "/nowhere", "--out", "/nowhere"]), 1);
    assert_eq!(code(&["inspect", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]), 1);
}

#[test]
fn a_prompt_longer_than_the_context_is_an_error_with_the_numbers() {
    let output = wayinfer(&["run", &model(), "-p", &"word ".repeat(400), "--ctx", "64"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("64") && error.contains("--ctx"), "{error}");
}

#[test]
fn a_budget_that_cannot_work_is_refused_with_the_numbers_and_the_one_it_names_works() {
    let run = |ram: &str| {
        let arguments = ["run", &model(), "-p", "hello", "--greedy", "--max-tokens", "3", "--ctx", "512", "--ram", ram];
        wayinfer(&arguments).output().unwrap()
    };
    let refused = run("8M");
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stdout.is_empty());
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    for part in ["8 MiB", "dense weights", "KV cache", "--ctx 512", "chosen experts"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let least = error.split("--ram ").nth(1).unwrap().split([',', ' ', '\n']).next().unwrap();
    let least = run(least);
    assert!(least.status.success(), "{}", String::from_utf8_lossy(&least.stderr));
    assert_eq!(least.stdout, run("1G").stdout);
}
