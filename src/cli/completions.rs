//! `wayinfer completions SHELL` and `wayinfer man`: what a shell and `man` want to know, made of the command line's own
//! definition.

use clap::Args;
use clap_complete::Shell;
use clap_mangen::Man;

use super::output;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell that is to know the commands
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    Ok(output::print(&script(args.shell))?)
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "wayinfer", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// What no option's help tells, in roff.
const AFTERWORD: &str = r#".SH FILES
.TP
.I ~/.config/wayinfer/config.toml
Settings; \fBwayinfer config\fR shows them and where each comes from.
.TP
.I ~/.local/share/wayinfer/models
Models that were pulled.
.TP
.I ~/.local/share/wayinfer/sessions
Conversations, as lines of JSON.
.PP
Where the system or XDG variables say otherwise, the files lie there.
.SH ENVIRONMENT
.TP
.B WAYINFER_CONFIG
The file of settings.
.TP
.BR WAYINFER_THREADS ", " WAYINFER_CTX " and so on"
Stand for the options of that name; an option wins over its variable, a variable over the file.
.TP
.BR HF_ENDPOINT ", " HF_TOKEN
A mirror of the model hub, and the token that is sent to it.
.TP
.BR HTTPS_PROXY ", " NO_PROXY
The way that downloads take.
.SH "EXIT STATUS"
0 where all went well, 1 where something failed, 2 where the command or a setting is wrong. Results go to standard output,
all else to standard error.
"#;

/// All commands on one page: there is only one binary to ask about.
pub(super) fn man() -> anyhow::Result<()> {
    Ok(output::print(&page()?)?)
}

fn page() -> std::io::Result<String> {
    let mut command = super::command();
    command.build();
    let mut page = rendered(|out| Man::new(command.clone()).manual("WayInfer").render(out))?;
    // The version stands in the title, and is no section of its own worth keeping behind the commands.
    page.truncate(page.find(".SH VERSION").unwrap_or(page.len()));
    for subcommand in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let man = Man::new(subcommand.clone());
        let about = subcommand.get_about().map(ToString::to_string).unwrap_or_default();
        page.extend([".SH \"WAYINFER ", &subcommand.get_name().to_uppercase(), "\"\n", &about, "\n"]);
        let sections = rendered(|out| {
            man.render_synopsis_section(out)?;
            man.render_options_section(out)
        })?;
        // Within a command's section they are parts of it.
        page.extend(sections.lines().map(|line| match line.strip_prefix(".SH ") {
            Some(title) => format!(".SS {title}\n"),
            None => format!("{line}\n"),
        }));
    }
    page.push_str(AFTERWORD);
    Ok(page)
}

fn rendered(render: impl Fn(&mut dyn std::io::Write) -> std::io::Result<()>) -> std::io::Result<String> {
    let mut text = Vec::new();
    render(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        for &shell in Shell::value_variants() {
            let script = script(shell);
            assert!(["quantize", "pull", "models", "greedy"].iter().all(|word| script.contains(word)), "{shell}");
        }
    }

    #[test]
    fn the_man_page_has_every_command_and_every_option() {
        let page = page().unwrap();
        let mut command = super::super::command();
        command.build();
        for subcommand in command.get_subcommands().filter(|command| command.get_name() != "help") {
            let title = format!(".SH \"WAYINFER {}\"", subcommand.get_name().to_uppercase());
            let own = page.split(&title).nth(1).expect(&title).split("\n.SH ").next().unwrap();
            for option in subcommand.get_opts().filter_map(|option| option.get_long()) {
                let option = format!("\\-\\-{}", option.replace('-', "\\-"));
                assert!(own.contains(&option), "{title}: {option}");
            }
        }
        assert_eq!(page.matches("\n.SH NAME").count(), 1);
    }
}
