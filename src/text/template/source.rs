//! The one change made to a template's source: `{% generation %}` and `{% endgeneration %}`, tags by which transformers marks
//! the assistant's own text for training, become `{% with %}` and `{% endwith %}`, which the engine knows and which, like them,
//! only open a scope.

/// The source for the engine. Comments, strings and raw blocks stay as they are.
pub(super) fn to_minijinja(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = match rest.as_bytes().get(1) {
            Some(b'#') => rest.find("#}").map_or(rest.len(), |end| end + 2),
            Some(b'{') => tag_len(rest, "}}"),
            Some(b'%') => tag_len(rest, "%}"),
            _ => 1,
        };
        let (tag, after) = rest.split_at(taken);
        rest = after;
        match tag_name(tag) {
            Some("generation") => out.push_str(&tag.replacen("generation", "with", 1)),
            Some("endgeneration") => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            Some("raw") => {
                out.push_str(tag);
                let end = raw_len(rest);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            _ => out.push_str(tag),
        }
    }
    out.push_str(rest);
    out
}

/// The length of the tag that `text` begins with, or all of it where the tag does not end.
fn tag_len(text: &str, close: &str) -> usize {
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut at = 2;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if open == byte => quote = None,
            (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
            (None, _) if bytes[at..].starts_with(close.as_bytes()) => return at + 2,
            _ => {}
        }
        at += 1;
    }
    text.len()
}

/// The first word of a block tag.
fn tag_name(tag: &str) -> Option<&str> {
    let inside = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let inside = inside.trim_start_matches(['-', '+']).trim_start();
    inside.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()
}

/// How far a raw block reaches, up to the tag that ends it.
fn raw_len(text: &str) -> usize {
    text.match_indices("{%")
        .find(|&(at, _)| tag_name(&text[at..at + tag_len(&text[at..], "%}")]) == Some("endraw"))
        .map_or(text.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::to_minijinja;

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
            ("{% set generation = 1 %}{{ generation }}", "{% set generation = 1 %}{{ generation }}"),
            ("{% generation", "{% generation"),
            ("{", "{"),
            ("{{ 'é\\", "{{ 'é\\"),
        ] {
            assert_eq!(to_minijinja(source), expected);
        }
    }
}
