//! Values as Python's `json.dumps` writes them, which is what the `tojson` of transformers calls.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::pay;

/// Python's own limit is near 1000; templates nest a few levels.
const MAX_DEPTH: usize = 100;

/// The `tojson` filter.
#[expect(clippy::needless_pass_by_value, reason = "the engine hands keywords over by value")]
pub(super) fn tojson(state: &State, value: &Value, positional: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    // In transformers' filter the first positional parameter is `ensure_ascii`.
    let ensure_ascii = match positional {
        Some(value) => value.is_true(),
        None => kwargs.get::<Option<Value>>("ensure_ascii")?.is_some_and(|value| value.is_true()),
    };
    let indent = kwargs.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none());
    let separators = kwargs.get::<Option<Value>>("separators")?.filter(|separators| !separators.is_none());
    let sort_keys = kwargs.get::<Option<Value>>("sort_keys")?.is_some_and(|value| value.is_true());
    kwargs.assert_all_used()?;

    let indent = indent.map(|indent| indent_unit(&indent)).transpose()?;
    let (item, key) = match &separators {
        Some(pair) => (separator(pair, 0)?, separator(pair, 1)?),
        None => ((if indent.is_some() { "," } else { ", " }).to_owned(), ": ".to_owned()),
    };
    let mut writer = Writer { state, out: String::new(), paid: 0, ensure_ascii, sort_keys, indent, item, key };
    writer.value(value, 0)?;
    writer.pay_for_output()?;
    Ok(Value::from(writer.out))
}

/// `json.dumps` takes a number of spaces or a text for one level.
fn indent_unit(indent: &Value) -> Result<String, Error> {
    const MAX_INDENT: usize = 64;
    let unit = match indent.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(indent.as_i64().unwrap_or(0).clamp(0, MAX_INDENT as i64 + 1) as usize),
    };
    if unit.len() > MAX_INDENT {
        return Err(Error::new(ErrorKind::InvalidOperation, "tojson: the indent is too large"));
    }
    Ok(unit)
}

fn separator(pair: &Value, index: usize) -> Result<String, Error> {
    let value = pair.get_item_by_index(index)?;
    let text =
        value.as_str().ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "tojson: separators are two strings"))?;
    Ok(text.to_owned())
}

struct Writer<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    out: String,
    /// How much of `out` fuel was paid for.
    paid: usize,
    ensure_ascii: bool,
    sort_keys: bool,
    /// One level, or `None` for everything on one line.
    indent: Option<String>,
    item: String,
    key: String,
}

impl Writer<'_, '_, '_> {
    fn pay_for_output(&mut self) -> Result<(), Error> {
        // Walking values costs more than copying their bytes.
        pay(self.state, (self.out.len() - self.paid) * 4)?;
        self.paid = self.out.len();
        Ok(())
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: the value is nested too deeply"));
        }
        self.pay_for_output()?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.sequence(value, depth)?,
            ValueKind::Map => self.map(value, depth)?,
            other => {
                let what = format!("tojson: a value of type {other} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, what));
            }
        }
        Ok(())
    }

    fn sequence(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut empty = true;
        self.out.push('[');
        for item in value.try_iter()? {
            self.begin_item(empty, depth + 1);
            empty = false;
            self.value(&item, depth + 1)?;
        }
        self.end_items(empty, depth);
        self.out.push(']');
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            pay(self.state, keys.len() * 64)?;
            keys.sort();
        }
        let empty = keys.is_empty();
        self.out.push('{');
        for (i, key) in keys.iter().enumerate() {
            self.begin_item(i == 0, depth + 1);
            match key.kind() {
                ValueKind::String => self.string(key.as_str().unwrap_or_default()),
                ValueKind::None => self.out.push_str("\"null\""),
                ValueKind::Bool => self.out.push_str(if key.is_true() { "\"true\"" } else { "\"false\"" }),
                ValueKind::Number => self.string(&number(key)),
                other => {
                    let what = format!("tojson: a key of type {other} is not allowed");
                    return Err(Error::new(ErrorKind::InvalidOperation, what));
                }
            }
            self.out.push_str(&self.key);
            self.value(&value.get_item(key)?, depth + 1)?;
        }
        self.end_items(empty, depth);
        self.out.push('}');
        Ok(())
    }

    fn begin_item(&mut self, first: bool, depth: usize) {
        if !first {
            self.out.push_str(&self.item);
        }
        self.line(depth);
    }

    fn end_items(&mut self, empty: bool, depth: usize) {
        if !empty {
            self.line(depth);
        }
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.out, "\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A number in JSON as Python writes it.
fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(x) if !value.is_integer() => match python_float(x).as_str() {
            "nan" => "NaN".to_owned(),
            "inf" => "Infinity".to_owned(),
            "-inf" => "-Infinity".to_owned(),
            text => text.to_owned(),
        },
        _ => value.to_string(),
    }
}

/// A float as Python's `repr` writes it: the shortest digits that read back the same, an exponent from 1e16 on and
/// below 1e-4.
pub(super) fn python_float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "nan"
        } else if x > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let text = format!("{x:?}");
    let Some((digits, exponent)) = text.split_once('e') else {
        return text;
    };
    let digits = digits.strip_suffix(".0").unwrap_or(digits);
    match exponent.strip_prefix('-') {
        Some(exponent) => format!("{digits}e-{exponent:0>2}"),
        None => format!("{digits}e+{exponent:0>2}"),
    }
}
