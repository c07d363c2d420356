//! The command line as a person or a script uses it: exit codes, stdout alone for results, JSON keys that stay.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says why it skips")]

mod common;

use assert_cmd::Command;
use serde_json::Value;

const MIXTRAL: &str = "mixtral-Q4_K_M.gguf";

/// The binary, with nobody's settings.
fn wayinfer(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("wayinfer").unwrap();
    let home = env!("CARGO_TARGET_TMPDIR");
    command.args(arguments).env("HOME", home).env("XDG_CONFIG_HOME", home).env("XDG_DATA_HOME", home);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WAYINFER_")) {
        command.env_remove(name);
    }
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
fn the_trace_in_assets_becomes_a_picture_and_a_cast() {
    let folder = tempfile::tempdir().unwrap();
    let [svg, cast] = ["panel.svg", "panel.cast"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    let assets = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let trace = assets.join("replay.trace").to_str().unwrap().to_owned();
    let draw = ["replay", &trace, "--ram", "2G", "--at", "4", "--svg", &svg];
    stdout(&[&draw[..], &["--cast", &cast, "--length", "2", "--speed", "2", "--size", "80x24"]].concat());
    let picture = std::fs::read_to_string(&svg).unwrap();
    assert!(picture.starts_with("<svg ") && picture.contains("as recorded") && picture.ends_with("</svg>\n"));
    let events = std::fs::read_to_string(&cast).unwrap();
    let lines: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["version"], &lines[0]["width"]), (&2.into(), &80.into()));
    assert!(lines.len() > 2 && lines[1..].iter().all(|event| event[1] == "o"));
    // Without a budget nobody can say what was in memory, and the picture does not.
    stdout(&["replay", &trace, "--svg", &svg]);
    assert!(std::fs::read_to_string(&svg).unwrap().contains("unknown"));
    let committed =
        ["replay.trace", "panel.svg", "panel.cast"].map(|n| std::fs::metadata(assets.join(n)).unwrap().len());
    assert!(committed.iter().sum::<u64>() < 300_000, "{committed:?}");
    for wrong in [&["--svg", &svg, "--json"][..], &["--svg", &svg, "--size", "1x1"], &["--svg", &svg, "--ram", "1M"]] {
        let output = wayinfer(&[&["replay", &trace], wrong].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
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
    assert_eq!(code(&["bench"]), 2);
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
fn settings_come_from_the_file_the_environment_and_options_and_config_tells_which() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new/settings.toml");
    let with_file = |arguments: &[&str]| {
        let mut command = wayinfer(arguments);
        command.env("WAYINFER_CONFIG", &file).env("WAYINFER_CTX", "128");
        command.output().unwrap()
    };
    let missing = with_file(&["config"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("config --init"));
    assert!(with_file(&["config", "--init"]).status.success());
    assert_eq!(with_file(&["config", "--init"]).status.code(), Some(2), "a file that is there is not written over");
    let mut text = std::fs::read_to_string(&file).unwrap();
    text.push_str("threads = 1\nctx = 64\nmin_p = 0.25\n");
    std::fs::write(&file, &text).unwrap();
    let line = text.lines().position(|line| line == "threads = 1").unwrap() + 1;
    let shown = with_file(&["config", "--json", "--min-p", "0.5"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let setting = |key: &str| {
        let settings = shown["settings"].as_array().unwrap();
        settings.iter().find(|setting| setting["key"] == key).unwrap().clone()
    };
    for (key, value, source) in [("threads", "1", "file"), ("ctx", "128", "environment"), ("min_p", "0.5", "option")] {
        assert_eq!((setting(key)["value"].as_str(), setting(key)["source"].as_str()), (Some(value), Some(source)));
    }
    assert_eq!(setting("threads")["line"], line);
    assert_eq!((&setting("kv")["value"], &setting("kv")["source"]), (&Value::Null, &"default".into()));
    // What is set is done: a prompt of more than 128 tokens does not fit.
    let run = with_file(&["run", &model(), "-p", &"word ".repeat(400)]);
    assert!(String::from_utf8_lossy(&run.stderr).contains("128"));
}

#[test]
fn a_wrong_setting_stops_what_would_use_it_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.toml");
    std::fs::write(&file, "kv = \"f16\"\ntreads = 3\n").unwrap();
    let run = |arguments: &[&str]| wayinfer(arguments).env("WAYINFER_CONFIG", &file).output().unwrap();
    for arguments in [&["run", "x.gguf", "-p", "hi"][..], &["config"]] {
        let output = run(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("settings.toml, line 2: there is no key `treads`; did you mean `threads`"), "{error}");
    }
    for arguments in [&["--help"][..], &["run", "--help"], &["man"], &["completions", "bash"], &["models"]] {
        assert!(run(arguments).status.success(), "{arguments:?}");
    }
}

#[test]
fn doctor_looks_at_the_machine_and_at_the_disk_of_a_model() {
    let report = json(&["doctor", &model(), "--no-probe", "--json"]);
    assert!(report["cpu"]["threads"].as_u64().unwrap() > 0);
    assert_eq!(report["cpu"]["isas"][0], "scalar");
    assert!(report["disk"]["probe"].is_null());
    if cfg!(target_os = "linux") {
        let (machine, usable) = (&report["memory"]["machine_bytes"], &report["memory"]["usable_bytes"]);
        assert!(usable.as_u64().unwrap() <= machine.as_u64().unwrap());
        assert!(report["disk"]["file_system"].is_string() && report["disk"]["free_bytes"].is_number());
    }
    // The model is too small for a figure that means anything, and that is said.
    let report = json(&["doctor", &model(), "--json"]);
    assert!(report["disk"]["probe"].is_null() && report["disk"]["probe_problem"].is_string(), "{report}");
    let page = stdout(&["doctor", "--no-probe"]);
    assert!(page.contains("For more speed:") && page.contains("not measured"), "{page}");
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

#[test]
fn the_model_in_the_binary_is_listed_and_cannot_be_removed() {
    let row = stdout(&["models"]).lines().find(|line| line.starts_with("demo ")).unwrap().to_owned();
    assert!(row.contains("built in") && row.contains(" MB ") && row.contains("experts"), "{row}");
    let listed = json(&["models", "--json"]);
    let demo = listed.as_array().unwrap().iter().find(|model| model["name"] == "demo").unwrap();
    assert!(demo["bytes"].as_u64().unwrap() > 1_000_000 && demo["format"].is_string() && demo["problem"].is_null());
    for arguments in [&["models", "--remove", "demo"][..], &["models", "--remove", "demo", "--yes"]] {
        let refused = wayinfer(arguments).output().unwrap();
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && told.contains("`demo` is built into the program"), "{told}");
    }
}

#[test]
fn the_model_in_the_binary_answers_where_none_is_named_and_has_a_name_of_its_own() {
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = wayinfer(arguments);
        let output =
            command.env("HOME", home.path()).env("XDG_CACHE_HOME", home.path().join("cache")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let options = ["-p", "hello", "--greedy", "--max-tokens", "12"];
    let (unnamed, told) = run(&[&["run"], &options[..]].concat());
    assert!(!unnamed.trim().is_empty() && told.contains("toy") && told.contains("wayinfer pull"), "{told}");
    assert_eq!(run(&[&["run", "demo"], &options[..]].concat()).0, unnamed);
    assert_eq!(run(&[&["run", "--model", "demo"], &options[..]].concat()).0, unnamed);
    // It is drawn from in the same way however it is named, and then not as from other models.
    let drawn = |words: &[&str]| run(&[&["run"], words, &["-p", "Tell me a story.", "--seed", "7"]].concat()).0;
    assert_eq!(drawn(&["demo"]), drawn(&[]));
    assert_ne!(drawn(&["demo"]), drawn(&["demo", "--temp", "0.8"]));
    let report: Value = serde_json::from_str(&run(&["inspect", "demo", "--json"]).0).unwrap();
    assert_eq!(report["runnable"], true);
    // The names of files and of models that are here come first.
    std::fs::copy(common::data(MIXTRAL), home.path().join("demo")).unwrap();
    let mut command = wayinfer(&["inspect", "demo", "--json"]);
    let other = command.current_dir(home.path()).env("HOME", home.path()).output().unwrap();
    assert_ne!(serde_json::from_slice::<Value>(&other.stdout).unwrap()["tensors"], report["tensors"]);
}
