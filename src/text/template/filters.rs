//! Filters, tests and printing where Jinja2 over Python differs from the engine.

use std::borrow::Cow;

use minijinja::formatting::FormatStyle;
use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, Output, State, Value};

use super::meter::{self, Limit};
use super::{json, method};

pub(super) fn add_to(environment: &mut Environment, limit: Limit) {
    environment.set_formatter(move |out, state, value| print(out, state, value, limit));
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("string", string);
    environment.add_filter("trim", trim);
    environment.add_filter("format", format);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("int", int);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_iterable);
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
}

/// `{{ value }}`.
fn print(out: &mut Output, state: &mut State, value: &Value, limit: Limit) -> Result<(), Error> {
    if value.as_object().is_some() {
        meter::walk(state, value, limit)?;
    }
    out.write_str(&text(value)).map_err(Error::from)
}

/// What Python's `str` makes of a value: floats as its `repr`, the rest as the engine has it. Containers must have been
/// walked, and paid for, before.
pub(super) fn text(value: &Value) -> Cow<'_, str> {
    match (value.as_str(), as_float(value)) {
        (Some(text), _) => Cow::Borrowed(text),
        (None, Some(x)) => Cow::Owned(json::python_float(x)),
        (None, None) => Cow::Owned(value.to_string()),
    }
}

fn string(value: &Value) -> Value {
    match value.kind() {
        ValueKind::String => value.clone(),
        _ => Value::from(text(value)),
    }
}

fn as_float(value: &Value) -> Option<f64> {
    (value.kind() == ValueKind::Number && !value.is_integer()).then(|| f64::try_from(value.clone()).ok()).flatten()
}

fn format(state: &State, text: &str, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args: Vec<Value> = args.0.into_iter().map(ValueOrKwargs::into_value).collect();
    method::format_text(state, FormatStyle::Printf, text, &args)
}

/// Strips what Python calls white space, or the characters given.
fn trim(state: &State, value: &Value, chars: Option<ValueOrKwargs>) -> Result<Value, Error> {
    let text = text(value);
    super::pay(state, text.len())?;
    let chars = chars.map(ValueOrKwargs::into_value);
    Ok(Value::from(method::strip(&text, chars.as_ref().and_then(Value::as_str))))
}

/// The engine's filter takes no keyword.
#[expect(clippy::needless_pass_by_value, reason = "the engine hands keywords over by value")]
fn default(value: &Value, other: Option<Value>, boolean: Option<bool>, kwargs: Kwargs) -> Result<Value, Error> {
    let other = other.or(kwargs.get("default_value")?);
    let boolean = boolean.or(kwargs.get("boolean")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let replace = value.is_undefined() || (boolean && !value.is_true());
    Ok(if replace { other.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

/// A whole number out of a number or a text; what is neither becomes the default.
#[expect(clippy::needless_pass_by_value, reason = "the engine hands keywords over by value")]
fn int(value: &Value, default: Option<i64>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default.or(kwargs.get("default")?).unwrap_or(0);
    kwargs.assert_all_used()?;
    if value.is_integer() {
        return Ok(value.clone());
    }
    if let Some(text) = value.as_str() {
        let text = text.trim();
        let number = text.parse::<i64>().ok().or_else(|| text.parse::<f64>().ok().map(|x| x as i64));
        return Ok(Value::from(number.unwrap_or(default)));
    }
    let number = match value.kind() {
        ValueKind::Bool => Some(i64::from(value.is_true())),
        ValueKind::Number => f64::try_from(value.clone()).ok().filter(|x| x.is_finite()).map(|x| x as i64),
        _ => None,
    };
    Ok(Value::from(number.unwrap_or(default)))
}

/// The entities that Python's `markupsafe` writes.
fn escape(state: &State, value: &Value) -> Result<Value, Error> {
    let text = text(value);
    super::pay(state, text.len() * 5)?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Ok(Value::from(out))
}

/// In Python a string, a map and a slice of a list have a length and items too.
fn is_sequence(value: &Value) -> bool {
    value.is_undefined()
        || matches!(
            value.kind(),
            ValueKind::Seq | ValueKind::Iterable | ValueKind::String | ValueKind::Map | ValueKind::Bytes
        )
}

/// The engine iterates over nothing where the value is none; Python refuses.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}
