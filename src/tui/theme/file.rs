//! A theme in a file: a table of roles, each a line of colours and manners, over one of the built-in themes.
//!
//! `heading = "#7aa2dc bold"`, `found = "black on yellow"`; `based_on = "light"` names the theme that the rest comes from.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

use ratatui::style::Modifier;
use toml::Spanned;

use crate::tui::nearest::nearest;

use super::color::{Ink, OWN};
use super::heat::STEPS;
use super::palette::{Ground, Look, Palette, ROLES};

/// A theme is a page of text; more is no theme.
const MAX_BYTES: u64 = 64 << 10;
/// More files than this are not listed.
const MAX_LISTED: usize = 200;
const MANNERS: [(&str, Modifier); 5] = [
    ("bold", Modifier::BOLD),
    ("dim", Modifier::DIM),
    ("italic", Modifier::ITALIC),
    ("underlined", Modifier::UNDERLINED),
    ("reversed", Modifier::REVERSED),
];
/// Keys that are not roles.
const OTHERS: [&str; 4] = ["based_on", "ground", "map", "map_unknown"];

/// Why there is no such theme.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ThemeError {
    #[error("there is no theme `{name}`; there are {}", there.join(", "))]
    Unknown { name: String, there: Vec<String> },
    #[error("{} cannot be read: {why}", path.display())]
    Unreadable { path: PathBuf, why: String },
    #[error("{place}, line {line}: {what}")]
    Wrong { place: String, line: usize, what: String },
}

/// The built-in themes, and those of `folder`.
pub fn names(folder: Option<&Path>) -> Vec<String> {
    let mut names: Vec<String> = Palette::BUILT_IN.map(str::to_owned).into();
    let mut own: Vec<String> = folder
        .and_then(|folder| fs::read_dir(folder).ok())
        .into_iter()
        .flatten()
        .take(MAX_LISTED)
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".toml")?.to_owned()))
        .filter(|name| is_name(name) && !names.contains(name))
        .collect();
    own.sort();
    names.extend(own);
    names
}

/// A name is part of a path and of a command.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && !name.starts_with('.')
}

/// The theme `name`: a built-in one, or that of `name.toml` in `folder`.
///
/// # Errors
/// There is none, or what is wrong with its file and where.
pub fn find(name: &str, folder: Option<&Path>) -> Result<Palette, ThemeError> {
    if let Some(palette) = Palette::built_in(name) {
        return Ok(palette);
    }
    let unknown = || ThemeError::Unknown { name: name.to_owned(), there: names(folder) };
    let path = folder.filter(|_| is_name(name)).ok_or_else(unknown)?.join(format!("{name}.toml"));
    let unreadable = |why: String| ThemeError::Unreadable { path: path.clone(), why };
    let size = match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(_) => return Err(unreadable("it is no file".into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(unknown()),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    if size > MAX_BYTES {
        return Err(unreadable(format!("it has {size} bytes; a theme has at most {MAX_BYTES}")));
    }
    let text = fs::read_to_string(&path).map_err(|error| unreadable(error.to_string()))?;
    parse(name, &path.display().to_string(), &text)
}

/// Reads a theme. `place`: what errors call its file.
///
/// # Errors
/// The line, the key and what is possible.
pub fn parse(name: &str, place: &str, text: &str) -> Result<Palette, ThemeError> {
    let line_of = |at: usize| text.as_bytes().iter().take(at).filter(|&&b| b == b'\n').count() + 1;
    let wrong = |line: usize, what: String| ThemeError::Wrong { place: place.to_owned(), line, what };
    let table: std::collections::BTreeMap<Spanned<String>, Spanned<toml::Value>> =
        toml::from_str(text).map_err(|e| wrong(line_of(e.span().map_or(0, |s| s.start)), e.message().to_owned()))?;
    // What a theme is based on comes first, wherever it is written.
    let mut palette = Palette::dark();
    for (key, value) in &table {
        if key.get_ref() == "based_on" {
            let based_on = value.get_ref().as_str().and_then(Palette::built_in);
            let list = Palette::BUILT_IN.join(", ");
            palette = based_on
                .ok_or_else(|| wrong(line_of(key.span().start), format!("key `based_on`: expected one of {list}")))?;
        }
    }
    name.clone_into(&mut palette.name);
    for (key, value) in table {
        let line = line_of(key.span().start);
        let key = key.into_inner();
        set(&mut palette, &key, value.get_ref()).map_err(|what| wrong(line, what))?;
    }
    Ok(palette)
}

fn set(palette: &mut Palette, key: &str, value: &toml::Value) -> Result<(), String> {
    let in_key = |what: String| format!("key `{key}`: {what}");
    let text = || value.as_str().ok_or_else(|| in_key(format!("expected a text, found {}", value.type_str())));
    match key {
        "based_on" => {}
        "ground" => {
            palette.map.ground = match text()? {
                "dark" => Ground::Dark,
                "light" => Ground::Light,
                other => return Err(in_key(format!("`{other}` is neither dark nor light"))),
            };
        }
        "map" => {
            let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let inks = list.iter().map(|ink| ink.as_str().ok_or(String::new()).and_then(color));
            let inks: Vec<Ink> = inks.collect::<Result<_, _>>().map_err(in_key)?;
            let n = inks.len();
            palette.map.by_share = inks.try_into().map_err(|_| {
                in_key(format!("expected a list of {STEPS} colours, from none in memory to all, found {n}"))
            })?;
        }
        "map_unknown" => palette.map.unknown = color(text()?).map_err(in_key)?,
        _ => {
            let role = ROLES.iter().position(|role| role.name == key);
            let at = role.ok_or_else(|| format!("there is no role `{key}`; {}", instead_of(key)))?;
            palette.looks[at] = look(text()?, palette.looks[at]).map_err(in_key)?;
        }
    }
    Ok(())
}

/// `COLOUR`, `MANNER` and `on COLOUR`, in any order. How a thing is told apart without colours stays as it was.
fn look(text: &str, before: Look) -> Result<Look, String> {
    let mut look = Look { mono: before.mono, ..Look::default() };
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        if let Some((_, manner)) = MANNERS.iter().find(|(name, _)| *name == word) {
            look.manner |= *manner;
        } else if word == "on" {
            let behind = words.next().ok_or("`on` is followed by a colour")?;
            if behind != "default" {
                look.on = Some(color(behind)?);
            }
        } else if word != "default" {
            look.ink = Some(color(word)?);
        }
    }
    Ok(look)
}

/// `#rrggbb`, `#rgb` or the name of one of the sixteen.
fn color(word: &str) -> Result<Ink, String> {
    if let Some((_, own, _)) = OWN.iter().find(|(name, ..)| *name == word) {
        return Ok(Ink::Own(*own));
    }
    let digits = word.strip_prefix('#').filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    let part = |from: usize, width: usize| {
        let text = digits?.get(from * width..(from + 1) * width)?;
        let value = u8::from_str_radix(text, 16).ok()?;
        Some(if width == 1 { value * 17 } else { value })
    };
    let width = match digits.map(str::len) {
        Some(3) => 1,
        Some(6) => 2,
        _ => 0,
    };
    if let (1.., Some(r), Some(g), Some(b)) = (width, part(0, width), part(1, width), part(2, width)) {
        return Ok(Ink::of((r, g, b)));
    }
    let names = OWN.map(|own| own.0).join(", ");
    let manners = MANNERS.map(|manner| manner.0).join(", ");
    Err(format!(
        "`{word}` is no colour and no manner; write #rrggbb, default, or one of {names}; manners are {manners}"
    ))
}

/// What somebody may have meant by `key`.
fn instead_of(key: &str) -> String {
    let all = || ROLES.iter().map(|role| role.name).chain(OTHERS);
    match nearest(key, all()) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("there are {}", all().collect::<Vec<_>>().join(", ")),
    }
}

/// A file with every key, commented out.
pub fn commented() -> String {
    let mut text = String::from(
        "# A theme of WayInfer: themes/NAME.toml beside the settings' file, for `theme = \"NAME\"` or /theme NAME.\n\
         # A role is colours and manners: \"#7aa2dc bold\", \"black on yellow\", \"default\". Colours are #rrggbb, #rgb or\n\
         # one of the terminal's own: ",
    );
    text.push_str(&OWN.map(|own| own.0).join(", "));
    text.push_str(".\n# Manners are ");
    text.push_str(&MANNERS.map(|manner| manner.0).join(", "));
    text.push_str(
        ".\n\n# What is not said here is as in this theme: dark, light or high-contrast.\n# based_on = \"dark\"\n\
         # Whether the terminal is dark or light: what the map's colours fade into.\n# ground = \"dark\"\n",
    );
    for (role, look) in ROLES.iter().zip(Palette::dark().looks) {
        let value = spelled(&look);
        let _ = write!(text, "\n# {}.\n# {} = \"{value}\"\n", capital(role.what), role.name);
    }
    let map = Palette::dark().map;
    let inks: Vec<String> = map.by_share.iter().map(|ink| format!("\"{}\"", spelled_ink(*ink))).collect();
    let _ = write!(text, "\n# The map: from none of a cell in memory to all.\n# map = [{}]\n", inks.join(", "));
    let _ = write!(text, "\n# Where that is not known.\n# map_unknown = \"{}\"\n", spelled_ink(map.unknown));
    text
}

fn spelled(look: &Look) -> String {
    let mut words: Vec<String> = look.ink.iter().map(|ink| spelled_ink(*ink)).collect();
    words.extend(look.on.map(|ink| format!("on {}", spelled_ink(ink))));
    words.extend(MANNERS.iter().filter(|(_, m)| look.manner.contains(*m)).map(|(name, _)| (*name).to_owned()));
    if words.is_empty() { "default".to_owned() } else { words.join(" ") }
}

fn spelled_ink(ink: Ink) -> String {
    let (r, g, b) = ink.rgb();
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use ratatui::style::Color;

    use super::super::Theme;
    use super::super::color::ColorDepth;
    use super::*;

    fn theme(text: &str) -> Theme {
        Theme::new(parse("mine", "mine.toml", text).unwrap(), ColorDepth::True)
    }

    fn problem(text: &str) -> String {
        parse("mine", "mine.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn a_file_changes_what_it_names_and_leaves_the_rest_to_the_theme_it_is_based_on() {
        let theme = theme("heading = \"#f00 bold italic\"\nfound = \"black on yellow\"\nbased_on = \"light\"\n");
        let light = Theme::new(Palette::light(), ColorDepth::True);
        assert_eq!(theme.heading.fg, Some(Color::Rgb(255, 0, 0)));
        assert_eq!(theme.heading.add_modifier, Modifier::BOLD | Modifier::ITALIC);
        assert_eq!((theme.found.fg, theme.found.bg), (Some(Color::Black), Some(Color::Yellow)));
        assert_eq!((theme.dim, theme.name()), (light.dim, "mine"));
    }

    #[test]
    fn the_commented_file_says_what_the_dark_theme_is() {
        assert_eq!(parse("x", "x", &commented()), Ok(Palette { name: "x".into(), ..Palette::dark() }));
        let lines = commented().replace("\n# ", "\n");
        let lines: Vec<&str> = lines.lines().filter(|line| line.contains(" = ") && !line.contains("theme =")).collect();
        let palette = parse("x", "x", &lines.join("\n")).unwrap();
        assert_eq!(lines.len(), ROLES.len() + OTHERS.len());
        let look = |palette: &Palette| palette.looks.map(|look| look.style(ColorDepth::True));
        assert_eq!(look(&palette), look(&Palette::dark()));
    }

    #[test]
    fn errors_name_the_file_the_line_the_key_and_what_is_possible() {
        assert!(
            problem("\nheadin = \"red\"")
                .contains("mine.toml, line 2: there is no role `headin`; did you mean `heading`?")
        );
        assert!(problem("list-marker = \"red\"").contains("did you mean `list_marker`?"));
        assert!(problem("colour = \"red\"").contains("there are base, text, dim"));
        assert!(problem("dim = \"reddish\"").contains("line 1: key `dim`: `reddish` is no colour"));
        assert!(problem("dim = \"#12345\"").contains("write #rrggbb"));
        assert!(problem("dim = \"#é12\"").contains("write #rrggbb"));
        assert!(problem("dim = 7").contains("key `dim`: expected a text, found integer"));
        assert!(problem("dim = \"red on\"").contains("`on` is followed by a colour"));
        assert!(problem("map = [\"red\"]").contains("expected a list of 5 colours"));
        assert!(problem("based_on = \"sepia\"").contains("expected one of dark, light, high-contrast"));
        assert!(problem("ground = \"sepia\"").contains("neither dark nor light"));
        assert!(problem("dim = ").contains("mine.toml, line 1: "));
    }

    #[test]
    fn themes_are_found_by_name_in_their_folder_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("sea.toml"), "you = \"cyan\"").unwrap();
        fs::write(dir.path().join("notes.txt"), "").unwrap();
        fs::write(dir.path().join("big.toml"), "#".repeat(70_000)).unwrap();
        let folder = Some(dir.path());
        assert_eq!(names(folder), ["dark", "light", "high-contrast", "big", "sea"]);
        assert_eq!(find("sea", folder).unwrap().name, "sea");
        assert_eq!(find("light", None), Ok(Palette::light()));
        assert!(
            find("see", folder).unwrap_err().to_string().contains("there are dark, light, high-contrast, big, sea")
        );
        assert!(find("../sea", folder).unwrap_err().to_string().contains("there is no theme"));
        assert!(find("big", folder).unwrap_err().to_string().contains("at most"));
    }
}
