//! The table of keys in the settings' file: what a person wants of it.

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::tui::Wish;

use super::KEYS_TABLE;

/// What the table of keys wants, with the place of each as its line; errors with their place in the text.
pub(super) fn wishes(text: &str) -> Result<Vec<Wish>, (usize, String)> {
    let whole = DeTable::parse(text).map_err(|e| (e.span().map_or(0, |s| s.start), e.message().to_owned()))?;
    let Some((name, table)) = whole.get_ref().iter().find(|(name, _)| name.get_ref() == KEYS_TABLE) else {
        return Ok(Vec::new());
    };
    let Some(table) = table.get_ref().as_table() else {
        let example = format!("`{KEYS_TABLE}` is a table: {KEYS_TABLE}.stop = \"Ctrl+X\"");
        return Err((name.span().start, example));
    };
    let mut wishes = Vec::new();
    let mut wish = |context: Option<&str>, name: &Spanned<DeString<'_>>, value: &DeValue<'_>| {
        let at = name.span().start;
        let keys: Option<Vec<String>> = match value {
            DeValue::String(key) => Some(vec![key.to_string()]),
            DeValue::Array(list) => list.iter().map(|key| key.get_ref().as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        let what =
            || format!("key `{KEYS_TABLE}.{}`: expected a key like \"Ctrl+X\", a list of keys, or []", name.get_ref());
        let keys = keys.ok_or_else(|| (at, what()))?;
        wishes.push(Wish { context: context.map(str::to_owned), action: name.get_ref().to_string(), keys, line: at });
        Ok(())
    };
    // What holds everywhere comes before what holds in one place.
    for (name, value) in table.iter().filter(|(_, value)| !value.get_ref().is_table()) {
        wish(None, name, value.get_ref())?;
    }
    for (context, actions) in table {
        for (name, value) in actions.get_ref().as_table().into_iter().flat_map(DeTable::iter) {
            wish(Some(context.get_ref()), name, value.get_ref())?;
        }
    }
    Ok(wishes)
}
