use clap::{CommandFactory, FromArgMatches};

use super::*;

fn of(text: &str, variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
    let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
    let settings = Settings::of(Path::new("c.toml"), text, &variable)?;
    settings.check()?;
    Ok(settings)
}

fn problem(text: &str, variables: &[(&str, &str)]) -> String {
    output::message(&of(text, variables).unwrap_err())
}

#[test]
fn the_temperatures_that_are_told_are_those_in_force() {
    let told = KEYS.iter().find(|key| key.name == "temp").unwrap().built_in;
    let (usual, demo) =
        (crate::sampler::SamplingParams::default().temperature, crate::embedded::sampling().temperature);
    assert_eq!(told, format!("{usual} (demo: {demo})"));
}

#[test]
fn the_commented_file_is_valid_and_holds_every_key() {
    assert_eq!(of(&commented(), &[]).unwrap(), Settings::default());
    let uncommented =
        commented().replace("\n# ", "\n").lines().filter(|l| l.contains(" = ")).collect::<Vec<_>>().join("\n");
    assert_eq!(of(&uncommented, &[]).unwrap().0.len(), KEYS.len());
}

#[test]
fn every_key_is_an_option_and_its_default_is_the_options() {
    let command = Judge::command();
    for key in &KEYS {
        let option = command.get_arguments().find(|arg| arg.get_id() == key.name).expect(key.name);
        let help = option.get_help().unwrap().to_string();
        let default = option.get_default_values().first().map(|value| value.to_str().unwrap().to_owned());
        assert!(
            help.contains(&format!("[default: {}", key.built_in.split(' ').next().unwrap()))
                || default.is_some_and(|default| default == key.built_in)
                || key.name == "ram",
            "{}: {help}",
            key.name
        );
    }
}

#[test]
fn errors_name_the_file_the_line_and_the_key() {
    assert!(problem("kv = \"f16\"\nthread = 3\n", &[]).contains("c.toml, line 2: there is no key `thread`"));
    assert!(problem("\n\nthreads = \"many\"", &[]).contains("c.toml, line 3: key `threads`"));
    assert!(problem("threads = 0", &[]).contains("key `threads`"));
    assert!(problem("temp = -1", &[]).contains("line 1: key `temp`"));
    assert!(problem("temp = nan", &[]).contains("line 1: key `temp`"));
    assert!(problem("kv = [1]", &[]).contains("line 1: key `kv` is of the type array"));
    assert!(problem("isa = \"mmx\"", &[]).contains("key `isa`"));
    assert!(problem("kv = \"f16\"\nthreads = = 2", &[]).contains("c.toml, line 2: "));
    assert!(problem("ctx = 1\nctx = 2", &[]).contains("c.toml, line 2: "));
    assert!(problem("", &[("WAYINFER_RAM", "lots")]).contains("WAYINFER_RAM: key `ram`"));
}

#[test]
fn keys_are_given_by_action_and_errors_name_the_line() {
    let settings = of("kv = \"f16\"\n[keys]\nretry = \"F9\"\npanel.freeze = []\n", &[]).unwrap();
    let keys = settings.keys().table();
    assert!(keys.contains("# retry = [\"F9\"]") && keys.contains("# freeze = []"), "{keys}");
    assert!(of("", &[]).unwrap().keys() == Keys::default());
    let wrong = problem("kv = \"f16\"\n[keys]\nretry = \"Ctrl+M\"\n", &[]);
    assert!(wrong.contains("c.toml, line 3: key `keys.retry`: `Ctrl+M` cannot be bound"), "{wrong}");
    assert!(problem("[keys.panel]\nfreese = \"x\"", &[]).contains("line 2: key `keys.panel.freese`: there is no such"));
    assert!(problem("[keys]\nretry = 7", &[]).contains("line 2: key `keys.retry`: expected a key like"));
    assert!(problem("keys = 7", &[]).contains("line 1: `keys` is a table"));
    assert!(problem("[keys]\nretry = \"Alt+E\"", &[]).contains("also the key of `edit-turn`"));
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_name() {
    for (wrong, meant) in
        [("thread", "threads"), ("top-k", "top_k"), ("Temp", "temp"), ("presense_penalty", "presence")]
    {
        let problem = problem(&format!("{wrong} = 1"), &[]);
        assert!(problem.contains(&format!("did you mean `{meant}")), "{problem}");
    }
    assert!(problem("colour = 1", &[]).contains("there are threads, ctx, "));
    let names = ["WAYINFER_THREAD", "WAYINFER_THREADS", "WAYINFER_CONFIG", "WAYINFER_TEST_MODELS", "THREADS"];
    let warnings = misspelled(names.into_iter().map(OsString::from));
    assert_eq!(warnings, ["WAYINFER_THREAD is no setting; did you mean WAYINFER_THREADS?"]);
}

#[test]
fn options_win_over_variables_and_variables_over_the_file() {
    let settings = of("threads = 2\nctx = 64\ntemp = 0.5", &[("WAYINFER_CTX", "128")]).unwrap();
    let command = || settings.apply(super::super::command());
    let matches = |words: &[&str]| command().try_get_matches_from([&["wayinfer", "config"], words].concat()).unwrap();
    let shown = |words: &[&str], name: &str| {
        let matches = matches(words);
        let key = KEYS.iter().find(|key| key.name == name).unwrap();
        let row = Row::of(key, &settings, matches.subcommand().unwrap().1);
        (row.value.clone(), row.origin())
    };
    let row = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(shown(&[], "threads"), row("2", "c.toml, line 1"));
    assert_eq!(shown(&[], "ctx"), row("128", "environment, WAYINFER_CTX"));
    assert_eq!(shown(&["--ctx", "256"], "ctx"), row("256", "option, --ctx"));
    assert_eq!(shown(&[], "kv"), row("f16", "default"));
    let number = |words: &[&str], key: &str| *matches(words).subcommand().unwrap().1.get_one::<u32>(key).unwrap();
    assert_eq!((number(&[], "threads"), number(&[], "ctx")), (2, 128));
    assert_eq!(number(&["--threads", "4"], "threads"), 4);
}

#[test]
fn greedy_stays_greedy_whatever_the_file_says_of_temperature() {
    let settings = of("temp = 0.5\ntop_k = 7\nrepeat_penalty = 1.5", &[]).unwrap();
    let params = |words: &[&str]| {
        let command = settings.apply(Judge::command());
        let matches = command.try_get_matches_from([&["wayinfer"], words].concat()).unwrap();
        Judge::from_arg_matches(&matches).unwrap().options.sampling.params().unwrap()
    };
    assert_eq!((params(&[]).temperature, params(&[]).top_k), (0.5, 7));
    let greedy = params(&["--greedy"]);
    assert_eq!(greedy.temperature, crate::sampler::SamplingParams::greedy().temperature);
    assert_eq!(greedy.repeat_penalty, 1.5);
}

#[test]
fn commands_without_settings_do_not_read_them() {
    let command = super::super::command();
    let takes = |name: &str| takes_settings(command.find_subcommand(name).unwrap());
    assert!(takes_settings(&command) && takes("run") && takes("config") && takes("quantize") && takes("replay"));
    assert!(["pull", "models", "doctor", "completions", "man"].iter().all(|name| !takes(name)));
}
