//! Templates as Jinja2 renders them, and templates built to do harm. The published templates are in `tests/text.rs`.

use std::time::{Duration, Instant};

use super::*;

const NOW: DateTime = DateTime::constant(2026, 1, 15, 9, 30, 0, 0);

fn render_with(source: &str, messages: &serde_json::Value) -> Result<String, TemplateError> {
    ChatTemplate::new(source)?.render(&RenderOptions {
        messages,
        generation_prompt: GenerationPrompt::Add,
        bos_token: "<s>",
        eos_token: "</s>",
        now: NOW,
        tools: None,
        extra: serde_json::Map::new(),
    })
}

fn render(source: &str) -> Result<String, TemplateError> {
    render_with(source, &serde_json::json!([{ "role": "user", "content": "hi" }]))
}

/// The file's results are those of Jinja2 3.1.6 in the environment of transformers' `apply_chat_template`.
/// What no template takes, however busy the machine: the slowest here takes half a second on an idle core.
const HANG: Duration = Duration::from_secs(15);

#[test]
fn expressions_and_white_space_are_as_in_jinja2() {
    let file: serde_json::Value = serde_json::from_str(include_str!("jinja2.json")).unwrap();
    for case in file["cases"].as_array().unwrap() {
        let source = case["source"].as_str().unwrap();
        let text = render_with(source, &file["messages"]).unwrap_or_else(|e| panic!("{source}: {e}"));
        assert_eq!(text, case["expected"].as_str().unwrap(), "{source}");
    }
}

#[test]
fn what_jinja2_refuses_is_refused() {
    for source in [
        "{{ undefined_thing|tojson }}",
        "{{ undefined_thing.attribute }}",
        "{{ 'a' + 1 }}",
        "{{ none|length }}",
        "{{ 1 / 0 }}",
        "{{ 1 in none }}",
        "{{ 'abc'.split('') }}",
        "{{ 'abc'.index('z') }}",
        "{{ ','.join([1]) }}",
        "{{ [1].append(2) }}",
        "{{ {'a': 1}.pop('a') }}",
        "{{ {'a': 1}.update({'b': 2}) }}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% extends 'x' %}",
        "{% do x %}",
        "{{ x",
        "{% if %}",
        "{{ 'a' | nofilter }}",
        "{{ 1 is notest }}",
        "{{ nofunction() }}",
        "{{ 'a'.nomethod() }}",
    ] {
        assert!(render(source).is_err(), "{source}");
    }
}

#[test]
fn a_refusal_of_the_template_is_told_from_other_errors() {
    match render("{{ raise_exception('Only ' ~ 2 ~ ' roles') }}") {
        Err(TemplateError::Raised(message)) => assert_eq!(message, "Only 2 roles"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        render("{% macro f() %}{{ raise_exception('x') }}{% endmacro %}{{ f() }}"),
        Err(TemplateError::Raised(_))
    ));
    assert!(matches!(render("{% if %}"), Err(TemplateError::Syntax(_))));
    assert!(matches!(render("{{ a.b }}"), Err(TemplateError::Failed(_))));
    let message = render("line\n{{ a.b }}").unwrap_err().to_string();
    assert!(message.contains("chat template:2"), "{message}");
}

#[test]
fn tools_and_extra_variables_reach_the_template() {
    let tools = serde_json::json!([{ "b": 1, "a": [] }]);
    let mut extra = serde_json::Map::new();
    extra.insert("enable_thinking".to_owned(), serde_json::json!(false));
    let options = RenderOptions {
        messages: &serde_json::json!([]),
        generation_prompt: GenerationPrompt::Omit,
        bos_token: "<s>",
        eos_token: "",
        now: NOW,
        tools: Some(&tools),
        extra,
    };
    let template =
        ChatTemplate::new("{{ tools|tojson }}{{ enable_thinking }}{{ add_generation_prompt }}{{ bos_token }}");
    assert_eq!(template.unwrap().render(&options).unwrap(), r#"[{"b": 1, "a": []}]FalseFalse<s>"#);
}

/// A loop that doubles a value, whose name is `ns.a`, ninety times.
fn doubled(first: &str, step: &str, end: &str) -> String {
    format!(
        "{{% set ns = namespace(a={first}, b={first}) %}}{{% for i in range(90) %}}{{% set ns.a = {step} %}}{{% endfor %}}{end}"
    )
}

#[test]
fn a_template_built_to_hang_fails_fast() {
    let nested = |end: &str| doubled("[]", "[ns.a, ns.a]", end);
    let long_list = |end: &str| doubled("['y']", "ns.a + ns.a", end);
    let mut sources: Vec<String> = [
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
        "{{ range(10**18)|list }}",
        "{{ 'x' * 10**9 }}",
        "{{ [0] * 10**9 }}",
        "{{ ([0] * 10**7)|tojson }}",
        "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% block a %}{{ self.a() }}{% endblock %}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns|tojson }}",
        "{% set ns = namespace(a=[]) %}{% for i in range(99999) %}{% set ns.a = [ns.a] %}{% endfor %}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ ('{0:>9999}' * 1000000).format(1) }}",
        "{{ ['%1000000000d']|map('format', 1)|list }}",
        "{{ 'a'.ljust(10**9) }}{{ 'a'.center(10**12) }}",
        "{% set a = 'x' * 1000000 %}{{ 'y'.join([a] * 100000) }}",
        "{% set a = 'x,' * 10000000 %}{{ a.split(',')|length }}",
        "{% set a = 'x' * 10000000 %}{% set b = 'x' * 10000000 %}{% for i in range(99999) %}{{ a == b }}{% endfor %}",
        "{% set a = 'x' * 10000000 %}{% for i in range(99999) %}{{ 'y' in a }}{{ a.find('y') }}{% endfor %}",
        "{% set a = 'é' * 5000000 %}{% for i in range(99999) %}{{ a[4999999] }}{{ a[1:2] }}{{ a|length }}{% endfor %}",
        "{% set a = 'x' * 9999999 %}{% for i in range(99999) %}{{ loop.changed(a) }}{% endfor %}",
        "{% set a = 'x' * 1000000 %}{{ range(99999)|tojson(separators=(a, a)) }}",
        "{{ ('a\\n' * 1000)|indent(10**9, true) }}",
        "{{ [1]|slice(10**9)|list }}{{ [1]|batch(10**9, 'x')|list }}",
        "{% set a = 'x' * 1000000 %}{{ range(99999)|select('in', a)|list }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ strftime_now('%9999999999d') }}{{ strftime_now('%200d' * 99) }}",
    ]
    .map(str::to_owned)
    .into();
    for end in ["{{ ns.a }}", "{{ ns.a|tojson }}", "{{ ns.a ~ '' }}", "{{ ns.a|upper }}", "{{ ns.a == ns.b }}"] {
        sources.extend([nested(end), long_list(end)]);
    }
    for end in
        ["{{ {(ns.a, 1): 1} }}", "{{ 'x'.startswith(ns.a) }}", "{{ ns.a.count(2) }}", "{{ raise_exception(ns.a) }}"]
    {
        sources.extend([nested(end), long_list(end)]);
    }
    sources.push(doubled("'x'", "ns.a ~ ns.a", ""));
    sources.push(doubled("'xx'", "ns.a.replace('x', ns.a)", ""));
    for source in sources {
        let start = Instant::now();
        let result = render(&source);
        let took = start.elapsed();
        assert!(result.is_err(), "{source}: {} bytes", result.unwrap().len());
        assert!(took < HANG, "{took:?}: {source}");
    }
}

#[test]
fn a_source_built_to_break_the_compiler_fails_or_compiles() {
    let chain = |unit: &str, n: usize| format!("{{{{ a{} }}}}", unit.repeat(n));
    let mut sources = Vec::new();
    for unit in ["+a", "**a", ".a", "|e", "~a", " and a", " < a", "()", "[a]", " is defined", " in a", " if a else a"] {
        // As long as a tag may be, and longer.
        sources.extend([chain(unit, (16 << 10) / unit.len() - 8), chain(unit, 100_000)]);
    }
    sources.push(format!("{{% if 0 %}}{}{{% endif %}}", "{% elif a %}".repeat(4096)));
    sources.push(format!("{{% if 0 %}}{}{{% endif %}}", "{% elif a %}".repeat(60_000)));
    for unit in ["(", "[", "not ", "-", "{{", "{%", "{#", "{%raw%}", "{%'", "{% if 1 %}", "{% for a in a %}"] {
        sources.push(unit.repeat(60_000));
        sources.push(format!("{{{{ {} }}}}", unit.repeat(3000)));
    }
    for source in sources {
        let start = Instant::now();
        let _ = render(&source);
        assert!(start.elapsed() < HANG, "{:?}: {}…", start.elapsed(), &source[..40]);
    }
}

#[test]
fn a_long_conversation_has_fuel_enough() {
    let source = "{%- set ns = namespace(out='') %}{%- for m in messages[::-1] %}{%- if messages|length > 1 and loop.last %}\
                  {%- set ns.out = m.role %}{%- endif %}{%- endfor %}{{ ns.out }}{%- for m in messages %}{{ m.role }}\
                  {{ m['content'].split('</think>')[-1].lstrip('\n')|trim }}{%- endfor %}";
    for (n_messages, bytes) in [(2000, 100), (300, 5000), (2, 3_000_000)] {
        let content = "word ".repeat(bytes / 5);
        let messages = (0..n_messages).map(|_| serde_json::json!({ "role": "user", "content": content })).collect();
        assert!(render_with(source, &messages).unwrap().len() > n_messages * (bytes - 5));
    }
}
