//! What somebody may have meant by a name that there is not.

/// A name is near another that so many letters put in, left out, changed or swapped turn it into, and no more than half of it.
const CLOSE: usize = 3;

/// The one of `names` that is nearest to `wrong`, if one is near. Case does not matter, nor whether words are joined by `-` or `_`.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('_', "-");
    let wanted = plain(wrong);
    let distances = names.into_iter().map(|name| (strsim::damerau_levenshtein(&wanted, &plain(name)), name));
    let (distance, name) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= CLOSE.min(name.chars().count() / 2)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn the_nearest_name_is_named_and_none_that_is_far() {
        assert_eq!(nearest("List-Markre", ["list_marker", "link"]), Some("list_marker"));
        assert_eq!(nearest("xyz", ["list_marker", "link"]), None);
        assert_eq!(nearest("ab", ["cd"]), None);
        assert_eq!(nearest("a", []), None);
    }
}
