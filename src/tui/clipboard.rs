//! Text for the terminal's clipboard, by OSC 52: base64 and nothing else goes into the sequence. What a program that stands
//! between makes of it (tmux, screen) is told by the environment.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// More than this many bytes do not fit what terminals take at once: 100,000 bytes of sequence, in base64.
pub const LIMIT: usize = 74_994;
/// GNU screen passes on no longer pieces.
const SCREEN_PIECE: usize = 760;

/// What stands between the program and the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    Nothing,
    Tmux,
    Screen,
}

impl Between {
    pub fn detect(variable: impl Fn(&str) -> Option<String>) -> Between {
        let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
        match () {
            () if is_set("TMUX") => Between::Tmux,
            () if is_set("STY") || variable("TERM").is_some_and(|term| term.starts_with("screen")) => Between::Screen,
            () => Between::Nothing,
        }
    }
}

/// The bytes that put `text` into the clipboard. It is at most [`LIMIT`] bytes long.
pub fn sequence(text: &str, between: Between) -> Vec<u8> {
    assert!(text.len() <= LIMIT, "the caller tells that it is too long");
    let plain = format!("\x1b]52;c;{}\x07", STANDARD.encode(text));
    match between {
        Between::Nothing => plain.into_bytes(),
        // tmux takes the first where `set-clipboard` is on, and passes on the second where `allow-passthrough` is.
        Between::Tmux => format!("{plain}\x1bPtmux;{}\x1b\\", plain.replace('\x1b', "\x1b\x1b")).into_bytes(),
        Between::Screen => {
            let mut out = Vec::with_capacity(plain.len() + plain.len() / SCREEN_PIECE * 4 + 4);
            for piece in plain.as_bytes().chunks(SCREEN_PIECE) {
                out.extend_from_slice(b"\x1bP");
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\x1b\\");
            }
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_holds_base64_whatever_the_text() {
        let text = "a\x1b]0;title\x07\x1b\\日\0";
        let sequence = String::from_utf8(sequence(text, Between::Nothing)).unwrap();
        let body = sequence.strip_prefix("\x1b]52;c;").unwrap().strip_suffix('\x07').unwrap();
        assert!(body.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)), "{body}");
        assert_eq!(STANDARD.decode(body).unwrap(), text.as_bytes());
    }

    #[test]
    fn tmux_gets_it_twice_and_screen_in_pieces_that_it_passes_on() {
        let tmux = String::from_utf8(sequence("hi", Between::Tmux)).unwrap();
        assert_eq!(tmux, "\x1b]52;c;aGk=\x07\x1bPtmux;\x1b\x1b]52;c;aGk=\x07\x1b\\");
        let text = "x".repeat(LIMIT);
        let screen = String::from_utf8(sequence(&text, Between::Screen)).unwrap();
        let pieces: Vec<&str> = screen.split("\x1b\\").filter(|piece| !piece.is_empty()).collect();
        assert!(pieces.iter().all(|piece| piece.starts_with("\x1bP") && piece.len() <= SCREEN_PIECE + 2));
        let joined: String = pieces.iter().map(|piece| &piece[2..]).collect();
        assert_eq!(joined.as_bytes(), sequence(&text, Between::Nothing));
        assert!(sequence(&text, Between::Nothing).len() <= 100_000);
    }

    #[test]
    fn the_environment_says_what_stands_between() {
        let detect = |name: &'static str, value: &'static str| {
            Between::detect(move |asked| (asked == name).then(|| value.to_owned()))
        };
        assert_eq!(detect("TMUX", "/tmp/tmux,1,0"), Between::Tmux);
        assert_eq!(detect("STY", "1.tty"), Between::Screen);
        assert_eq!(detect("TERM", "screen.xterm"), Between::Screen);
        assert_eq!(detect("TERM", "xterm-256color"), Between::Nothing);
        assert_eq!(detect("TMUX", ""), Between::Nothing);
    }
}
