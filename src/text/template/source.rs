//! What is changed in a template's source before the engine reads it, and what is refused there.
//!
//! Line ends become `\n`, as Jinja2 has them. `{% generation %}` and `{% endgeneration %}`, tags by which transformers marks
//! the assistant's own text for training, become `{% with %}` and `{% endwith %}`, which the engine knows and which, like
//! them, only open a scope.
//!
//! The engine's parser and compiler recurse once for each operator of a chain and each `elif`, so both are bounded.

use super::TemplateError;

/// Code of one tag, strings not counted. The longest published ones have a few hundred bytes.
const MAX_TAG_CODE: usize = 16 << 10;
/// All `elif` tags of a template.
const MAX_ELIFS: usize = 4096;

/// The source for the engine. Comments, strings and raw blocks stay as they are.
pub(super) fn prepare(source: &str) -> Result<String, TemplateError> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    let mut n_elifs = 0;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = match rest.as_bytes().get(1) {
            Some(b'#') => rest.find("#}").map_or(rest.len(), |end| end + 2),
            Some(b'{') => tag_len(rest, "}}")?,
            Some(b'%') => tag_len(rest, "%}")?,
            _ => 1,
        };
        let (tag, after) = rest.split_at(taken);
        rest = after;
        match tag_name(tag) {
            Some("generation") => out.push_str(&tag.replacen("generation", "with", 1)),
            Some("endgeneration") => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            Some("raw") => {
                let (raw, after) = rest.split_at(raw_len(rest));
                out.push_str(tag);
                // The engine trims the line end after this tag, which Jinja2 keeps.
                if raw.starts_with('\n') && !tag.ends_with("-%}") {
                    out.push('\n');
                }
                out.push_str(raw);
                rest = after;
            }
            Some("import" | "from" | "include" | "extends") => {
                // Here there are no others, and the engine's compiler panics at some of these tags.
                return Err(TemplateError::Syntax(format!("a chat template cannot load other templates: `{tag}`")));
            }
            name => {
                n_elifs += usize::from(name == Some("elif"));
                out.push_str(tag);
            }
        }
    }
    out.push_str(rest);
    if n_elifs > MAX_ELIFS {
        return Err(TemplateError::Unreasonable { what: "thousands of conditions" });
    }
    Ok(out)
}

/// The length of the tag that `text` begins with, or all of it where the tag does not end.
fn tag_len(text: &str, close: &str) -> Result<usize, TemplateError> {
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut code = 0;
    let mut at = 2;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
            (None, _) if bytes[at..].starts_with(close.as_bytes()) => return Ok(at + 2),
            (None, _) => code += 1,
        }
        if code > MAX_TAG_CODE {
            return Err(TemplateError::Unreasonable { what: "a tag of many thousand characters" });
        }
        at += 1;
    }
    Ok(text.len())
}

/// The first word of a block tag.
fn tag_name(tag: &str) -> Option<&str> {
    let inside = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let inside = inside.trim_start_matches(['-', '+']).trim_start();
    inside.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()
}

/// How far a raw block reaches, up to the tag that ends it.
fn raw_len(text: &str) -> usize {
    let ends_raw = |tag: &str| {
        let name = tag[2..].trim_start_matches(['-', '+']).trim_start();
        name.strip_prefix("endraw")
            .is_some_and(|after| after.trim_start().trim_start_matches(['-', '+']).starts_with("%}"))
    };
    text.match_indices("{%").map(|(at, _)| at).find(|&at| ends_raw(&text[at..])).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::prepare;

    #[test]
    fn only_generation_tags_are_changed() {
        for (source, expected) in [
            ("a{% generation %}b{% endgeneration %}c", "a{% with %}b{% endwith %}c"),
            ("{%- generation -%}x{%+ endgeneration +%}", "{%- with -%}x{%+ endwith +%}"),
            ("{# {% generation %} #}", "{# {% generation %} #}"),
            ("{{ '{% generation %}' }}", "{{ '{% generation %}' }}"),
            ("{% if x == '%}' %}{%generation%}", "{% if x == '%}' %}{%with%}"),
            (
                "{% raw %}{% generation %}{% endraw %}{% generation %}",
                "{% raw %}{% generation %}{% endraw %}{% with %}",
            ),
            ("{% raw %}\na{% endraw %}", "{% raw %}\n\na{% endraw %}"),
            ("{% raw -%}\na{% endraw %}", "{% raw -%}\na{% endraw %}"),
            ("{% set generation = 1 %}{{ generation }}", "{% set generation = 1 %}{{ generation }}"),
            ("{% generation", "{% generation"),
            ("{", "{"),
            ("{{ 'é\\", "{{ 'é\\"),
            ("a\r\nb\rc", "a\nb\nc"),
        ] {
            assert_eq!(prepare(source).unwrap(), expected);
        }
    }
}
