//! Python's methods of strings, and its refusal of those that change a list or a map in place.
//!
//! The methods of maps and lists come from `minijinja-contrib`. Those of strings are here: a template is untrusted, so each
//! of them pays for its work before it does it, and what it makes is what Python makes.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::meter::{self, Limit};
use super::{filters, pay};

/// Methods that Jinja2's immutable sandbox forbids.
const MUTATING: &[&str] = &[
    "add",
    "append",
    "clear",
    "discard",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
];

/// Bytes that a value takes in a list.
const SLOT_BYTES: usize = 32;

/// Called by the engine for a method that a value has not got by itself.
pub(super) fn call(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
    limit: Limit,
) -> Result<Value, Error> {
    for arg in args {
        meter::walk(state, arg, limit)?;
    }
    match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) => string_method(state, text, method, args),
        (ValueKind::Map | ValueKind::Seq | ValueKind::Iterable, _) if MUTATING.contains(&method) => {
            Err(invalid(format!("`{method}` would change a value in place, which chat templates may not")))
        }
        (ValueKind::Map | ValueKind::Seq, _) if method == "copy" => Ok(value.clone()),
        (ValueKind::Seq, _) if method == "index" => index_of(state, value, args),
        (ValueKind::Seq, _) => {
            pay(state, value.len().unwrap_or(0) * SLOT_BYTES)?;
            pycompat::unknown_method_callback(state, value, method, args)
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn invalid(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

fn index_of(state: &State, value: &Value, args: &[Value]) -> Result<Value, Error> {
    let (what,): (&Value,) = from_args(args)?;
    for (i, item) in value.try_iter()?.enumerate() {
        pay(state, SLOT_BYTES)?;
        if item == *what {
            return Ok(Value::from(i));
        }
    }
    Err(invalid("index: not in the list"))
}

fn string_method(state: &State, text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    pay(state, text.len())?;
    match method {
        "upper" | "lower" | "casefold" | "swapcase" | "capitalize" | "title" => {
            let () = from_args(args)?;
            Ok(Value::from(change_case(text, method)))
        }
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Ok(Value::from(match method {
                "strip" => strip(text, chars),
                "lstrip" => strip_start(text, chars),
                _ => strip_end(text, chars),
            }))
        }
        "split" | "rsplit" => split_method(state, text, method == "rsplit", args),
        "splitlines" => {
            let (keep_ends, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep_ends = keep_ends.or(kwargs.get("keepends")?).unwrap_or(false);
            kwargs.assert_all_used()?;
            pay(state, text.matches(is_line_end).count() * SLOT_BYTES)?;
            Ok(split_lines(text, keep_ends).into_iter().collect())
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            partition(text, separator, method == "rpartition")
        }
        "replace" => {
            let (old, new, count, kwargs): (&str, &str, Option<i64>, Kwargs) = from_args(args)?;
            let count = count.or(kwargs.get("count")?).unwrap_or(-1);
            kwargs.assert_all_used()?;
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            pay(state, text.matches(old).take(count).count().saturating_mul(new.len()))?;
            Ok(Value::from(text.replacen(old, new, count)))
        }
        "removeprefix" | "removesuffix" => {
            let (affix,): (&str,) = from_args(args)?;
            let rest = if method == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
            Ok(Value::from(rest.unwrap_or(text)))
        }
        "join" => join(state, text, args),
        "format" => format_text(state, FormatStyle::StrFormat, text, args),
        "startswith" | "endswith" => {
            let (affix, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let (part, _) = char_slice(text, start, end);
            has_affix(part, affix, method)
        }
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, method, args),
        "zfill" | "ljust" | "rjust" | "center" => pad(state, text, method, args),
        _ => {
            let () = from_args(args)?;
            is_method(text, method).map(Value::from).ok_or_else(|| Error::from(ErrorKind::UnknownMethod))
        }
    }
}

fn change_case(text: &str, method: &str) -> String {
    match method {
        "upper" => text.to_uppercase(),
        "lower" | "casefold" => text.to_lowercase(),
        "swapcase" => {
            let swap =
                |c: char| if c.is_lowercase() { c.to_uppercase().to_string() } else { c.to_lowercase().to_string() };
            text.chars().map(swap).collect()
        }
        "capitalize" => {
            let mut chars = text.chars();
            chars.next().map_or_else(String::new, |first| {
                first.to_uppercase().chain(chars.as_str().to_lowercase().chars()).collect()
            })
        }
        _ => {
            // A letter that follows a letter is small, any other is large.
            let mut out = String::with_capacity(text.len());
            let mut after_letter = false;
            for c in text.chars() {
                if after_letter {
                    out.extend(c.to_lowercase());
                } else {
                    out.extend(c.to_uppercase());
                }
                after_letter = c.is_lowercase() || c.is_uppercase();
            }
            out
        }
    }
}

/// What Python counts as white space: Unicode's, and four separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

pub(super) fn strip<'a>(text: &'a str, chars: Option<&str>) -> &'a str {
    strip_end(strip_start(text, chars), chars)
}

fn strip_start<'a>(text: &'a str, chars: Option<&str>) -> &'a str {
    match chars {
        Some(chars) => text.trim_start_matches(|c| chars.contains(c)),
        None => text.trim_start_matches(is_space),
    }
}

fn strip_end<'a>(text: &'a str, chars: Option<&str>) -> &'a str {
    match chars {
        Some(chars) => text.trim_end_matches(|c| chars.contains(c)),
        None => text.trim_end_matches(is_space),
    }
}

fn split_method(state: &State, text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, limit, kwargs): (Option<&Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.cloned().or(kwargs.get("sep")?).filter(|separator| !separator.is_none());
    let limit = limit.or(kwargs.get("maxsplit")?).unwrap_or(-1);
    kwargs.assert_all_used()?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let Some(separator) = separator else {
        pay(state, text.matches(is_space).take(limit).count() * SLOT_BYTES)?;
        return Ok(split_at_space(text, limit, from_right).into_iter().collect());
    };
    let separator = separator.as_str().ok_or_else(|| invalid("split: the separator is not a string"))?;
    if separator.is_empty() {
        return Err(invalid("split: the separator is empty"));
    }
    pay(state, text.matches(separator).take(limit).count() * SLOT_BYTES)?;
    let pieces = limit.saturating_add(1);
    if from_right {
        let mut parts: Vec<&str> = text.rsplitn(pieces, separator).collect();
        parts.reverse();
        return Ok(parts.into_iter().collect());
    }
    Ok(text.splitn(pieces, separator).collect())
}

/// Words between runs of white space; after `limit` of them the rest is one.
fn split_at_space(text: &str, limit: usize, from_right: bool) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = if from_right { strip_end(text, None) } else { strip_start(text, None) };
    while !rest.is_empty() {
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        match cut.filter(|_| words.len() < limit) {
            None => {
                words.push(rest);
                break;
            }
            Some(cut) if from_right => {
                words.push(strip_start(&rest[cut..], None));
                rest = strip_end(&rest[..cut], None);
            }
            Some(cut) => {
                words.push(&rest[..cut]);
                rest = strip_start(&rest[cut..], None);
            }
        }
    }
    if from_right {
        words.reverse();
    }
    words
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(is_line_end).unwrap_or(rest.len());
        let after = &rest[end..];
        let end_len = if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(0, char::len_utf8) };
        lines.push(&rest[..if keep_ends { end + end_len } else { end }]);
        rest = &after[end_len..];
    }
    lines
}

fn partition(text: &str, separator: &str, from_right: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(invalid("partition: the separator is empty"));
    }
    let found = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match found {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

fn join(state: &State, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let (items,): (&Value,) = from_args(args)?;
    let mut out = String::new();
    for (i, item) in items.try_iter()?.enumerate() {
        let text =
            item.as_str().ok_or_else(|| invalid(format!("join: item {i} is a {}, not a string", item.kind())))?;
        pay(state, separator.len() + text.len())?;
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(text);
    }
    Ok(Value::from(out))
}

/// `str.format` or the `%` of strings. Widths come from the template, so they are paid for before anything is padded.
/// The arguments must have been walked before.
pub(super) fn format_text(state: &State, style: FormatStyle, text: &str, args: &[Value]) -> Result<Value, Error> {
    const MAX_WIDTH: usize = 10_000;
    let (field, key_open, key_close) = match style {
        FormatStyle::StrFormat => ('{', "[", ']'),
        FormatStyle::Printf => ('%', "%(", ')'),
    };
    // The engine panics at a key that is not ASCII.
    let key_is_ascii = |(at, _)| text[at..].split(key_close).next().is_some_and(str::is_ascii);
    if !text.is_ascii() && !text.match_indices(key_open).all(key_is_ascii) {
        return Err(invalid("format: a key is not ASCII, which is not supported"));
    }
    let (mut number, mut widths) = (0_usize, 0_usize);
    for c in text.chars() {
        number = c.to_digit(10).map_or(0, |digit| number.saturating_mul(10).saturating_add(digit as usize));
        widths = widths.saturating_add(number);
        if number > MAX_WIDTH {
            return Err(invalid("format: a width is too large"));
        }
    }
    // Every field may show any argument, whole.
    let shown: usize = args.iter().map(|arg| filters::text(arg).len() + 64).sum();
    pay(state, text.matches(field).count().saturating_mul(shown).saturating_add(widths))?;
    format(style, text, args).map(Value::from)
}

/// The characters from `start` to `end`, which count from the back where they are negative, and the index of the first.
fn char_slice(text: &str, start: Option<i64>, end: Option<i64>) -> (&str, usize) {
    if start.is_none() && end.is_none() {
        return (text, 0);
    }
    let n_chars = text.chars().count();
    let index = |at: i64| {
        let distance = usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX);
        if at < 0 { n_chars.saturating_sub(distance) } else { distance.min(n_chars) }
    };
    let start = start.map_or(0, index);
    let end = end.map_or(n_chars, index).max(start);
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    (&text[byte(start)..byte(end)], start)
}

fn has_affix(text: &str, affix: &Value, method: &str) -> Result<Value, Error> {
    let test = |affix: &Value| {
        let affix =
            affix.as_str().ok_or_else(|| invalid(format!("{method}: expected a string, found a {}", affix.kind())))?;
        Ok::<bool, Error>(if method == "startswith" { text.starts_with(affix) } else { text.ends_with(affix) })
    };
    if affix.kind() != ValueKind::Seq {
        return test(affix).map(Value::from);
    }
    for one in affix.try_iter()? {
        if test(&one)? {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

fn search(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let (part, offset) = char_slice(text, start, end);
    if method == "count" {
        return Ok(Value::from(part.matches(what).count()));
    }
    let byte = if method.starts_with('r') { part.rfind(what) } else { part.find(what) };
    match byte {
        Some(byte) => Ok(Value::from(offset + part[..byte].chars().count())),
        None if method.ends_with("index") => Err(invalid(format!("{method}: substring not found"))),
        None => Ok(Value::from(-1)),
    }
}

fn pad(state: &State, text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (i64, Option<char>) = from_args(args)?;
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
    pay(state, missing.saturating_mul(4))?;
    let fill = if method == "zfill" { '0' } else { fill.unwrap_or(' ') };
    let padding = |n: usize| std::iter::repeat_n(fill, n);
    Ok(Value::from(match method {
        "ljust" => text.chars().chain(padding(missing)).collect::<String>(),
        "rjust" => padding(missing).chain(text.chars()).collect(),
        "center" => {
            let odd_to_left = missing & usize::try_from(width).unwrap_or(0) & 1;
            let left = missing / 2 + odd_to_left;
            padding(left).chain(text.chars()).chain(padding(missing - left)).collect()
        }
        _ => {
            let sign = usize::from(text.starts_with(['+', '-']));
            text[..sign].chars().chain(padding(missing)).chain(text[sign..].chars()).collect()
        }
    }))
}

/// The methods that ask what a string consists of.
fn is_method(text: &str, method: &str) -> Option<bool> {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    let cased =
        |wanted: fn(char) -> bool, other: fn(char) -> bool| text.chars().any(wanted) && !text.chars().any(other);
    Some(match method {
        "isspace" => all(is_space),
        "isdigit" | "isdecimal" | "isnumeric" => all(char::is_numeric),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isascii" => text.is_ascii(),
        "islower" => cased(char::is_lowercase, char::is_uppercase),
        "isupper" => cased(char::is_uppercase, char::is_lowercase),
        "istitle" => text.chars().any(char::is_uppercase) && change_case(text, "title") == text,
        "isidentifier" => {
            let first = text.chars().next().is_some_and(|c| c == '_' || c.is_alphabetic());
            first && text.chars().all(|c| c == '_' || c.is_alphanumeric())
        }
        _ => return None,
    })
}
