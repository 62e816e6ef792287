//! Formats the manual page of a command with the macros of `man(7)`.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command};

use crate::base::terminal::wrap;

/// Entries of the manual's section on files: paths that commands read or write.
const FILES: &[(&str, &str)] = &[
    ("/proc/sys/fs/binfmt_misc", "Mount point of binfmt_misc. Every handler is a file in it."),
    (
        "/etc/binfmt.d/qus-ARCH.conf",
        "Rules that register --persist writes. systemd-binfmt registers them at boot.",
    ),
    (
        "/usr/local/lib/qus/VERSION",
        "Interpreters that root fetched, with a record of their origin. VERSION is that of QEMU.",
    ),
    ("/usr/local/lib/qus/copies", "Copies of interpreters that register --persist made."),
    ("$XDG_DATA_HOME/qus, ~/.local/share/qus", "Interpreters that a user other than root fetched."),
    (
        "$XDG_CACHE_HOME/qus, ~/.cache/qus",
        "Package lists of apt, for fetch. Root has them in /var/cache/qus.",
    ),
];

/// Entries of the manual's section on environment variables that commands read.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("QUS_INTERPRETER_DIR", "Directory that is searched for interpreters before all others."),
    ("TMPDIR", "First directory that is tried for temporary files and for probes."),
    ("XDG_DATA_HOME, XDG_CACHE_HOME", "Directories of a user for interpreters and for lists of packages."),
    ("NO_COLOR, CLICOLOR, CLICOLOR_FORCE, TERM", "They determine whether states are printed in colour."),
    (
        "QEMU_LD_PREFIX",
        "Root directory in which an emulator looks for the loader of a program. `qus which` uses it as well.",
    ),
];

/// Exit statuses of every command except `qus run`, with their meanings.
const STATUS: &[(&str, &str)] = &[
    ("0", "Success."),
    ("1", "A verification failed, or `which` or `doctor` found a problem."),
    (
        "2",
        "An error: an invalid command line, missing permission, a problem of the system, or an architecture that could not be registered.",
    ),
];

/// Exit statuses of `qus run`, with their meanings. They are the same as those of env(1).
const RUN_STATUS: &[(&str, &str)] = &[
    ("125", "qus itself failed."),
    ("126", "The program was found, but could not be started."),
    ("127", "The program was not found."),
    ("other", "The exit status of the program, or 128 plus the number of the signal that ended it."),
];

/// Date of the release that the pages describe.
const DATE: &str = "2026-11-26";
/// Longest line of running text, in columns, before [`escape`] makes it longer. `mandoc -Tlint` accepts 80 bytes.
const WIDTH: usize = 70;

/// Returns the name of the manual page of `command`, such as `qus-register`.
pub(super) fn name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

/// Formats the manual page of `command`. The caller must have called `Command::build` on it.
pub(super) fn page(command: &Command) -> String {
    let mut page = Page::default();
    let version = env!("CARGO_PKG_VERSION");
    page.line(&format!(".TH {} 1 \"{DATE}\" \"qus {version}\" \"qus manual\"", name(command).to_uppercase()));
    page.section("NAME");
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    page.line(&format!("{} \\- {}", escape(&name(command)), escape(&lower_first(&about))));
    page.section("SYNOPSIS");
    page.synopsis(command);
    page.section("DESCRIPTION");
    let long_about = command.get_long_about().map(ToString::to_string);
    let details = long_about.as_deref().and_then(|text| text.split_once("\n\n")).map(|(_, details)| details);
    page.text(details.unwrap_or(&format!("{about}.")));
    if command.has_subcommands() {
        page.section("COMMANDS");
        for command in command.get_subcommands() {
            page.entry(&format!("\\fB{}(1)\\fR", escape(&name(command))), &plain(command.get_about()));
        }
    }
    page.options(command);
    page.help(command);
    page.entries("FILES", FILES);
    page.entries("ENVIRONMENT", ENVIRONMENT);
    page.entries("EXIT STATUS", if command.get_name() == "run" { RUN_STATUS } else { STATUS });
    page.section("SEE ALSO");
    page.see_also(command);
    page.0
}

/// Text of a manual page in the language of roff.
#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn section(&mut self, name: &str) {
        self.line(&format!(
            ".SH {}",
            if name.contains(' ') { format!("\"{name}\"") } else { name.to_owned() }
        ));
    }

    /// Adds `text` as running text. Escapes lines that begin with a control character of roff.
    fn text(&mut self, text: &str) {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        for line in lines.flat_map(|line| wrap(line, WIDTH, WIDTH)) {
            let line = escape(&line);
            self.line(&if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line });
        }
    }

    fn entry(&mut self, tag: &str, text: &str) {
        self.line(".TP");
        self.line(tag);
        self.text(text);
    }

    fn entries(&mut self, section: &str, entries: &[(&str, &str)]) {
        self.section(section);
        for (tag, text) in entries {
            self.entry(&format!("\\fB{}\\fR", escape(tag)), text);
        }
    }

    fn synopsis(&mut self, command: &Command) {
        let mut line = format!("\\fB{}\\fR", escape(&name(command).replace('-', " ")));
        let own = command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_global_set());
        for arg in own.filter(|arg| arg.get_id() != "help" && arg.get_id() != "version") {
            let option = option(arg);
            let _infallible =
                if arg.is_required_set() { write!(line, "\n{option}") } else { write!(line, "\n[{option}]") };
        }
        line.push('\n');
        for arg in command.get_positionals() {
            let value = value(arg);
            let dots = if matches!(arg.get_action(), ArgAction::Append) { "..." } else { "" };
            let shown = format!("{value}{dots}");
            let _infallible =
                if arg.is_required_set() { writeln!(line, "{shown}") } else { writeln!(line, "[{shown}]") };
        }
        if command.has_subcommands() {
            line.push_str("\\fICOMMAND\\fR");
        }
        self.line(line.trim_end());
    }

    /// Adds the arguments and options of `command`, under the same headings as in `--help`.
    fn options(&mut self, command: &Command) {
        // Arguments without a heading come first.
        let mut headings: Vec<Option<&str>> = vec![None];
        for arg in command.get_arguments() {
            if !headings.contains(&arg.get_help_heading()) {
                headings.push(arg.get_help_heading());
            }
        }
        self.section("OPTIONS");
        for heading in headings {
            if let Some(heading) = heading {
                self.line(&format!(".SS \"{heading}\""));
            }
            for arg in command.get_arguments().filter(|arg| arg.get_help_heading() == heading) {
                let tag = if arg.is_positional() { value(arg) } else { option(arg) };
                self.entry(&tag, &help_of(arg));
            }
        }
    }

    /// Adds the sections that `--help` prints after the options ([`crate::commands::help`]).
    fn help(&mut self, command: &Command) {
        let text = command.get_after_long_help().or_else(|| command.get_after_help());
        let text = text.map(ToString::to_string).unwrap_or_default();
        for line in text.lines() {
            if let Some(description) = line.strip_prefix("      ") {
                self.text(description);
            } else if let Some(tag) = line.strip_prefix("  ") {
                self.line(".TP");
                self.line(&format!("\\fB{}\\fR", escape(tag)));
            } else if let Some(section) = line.strip_suffix(':') {
                // The exit status has a section of its own on every page.
                if section == "Exit status" {
                    break;
                }
                self.section(&section.to_uppercase());
            }
        }
    }

    fn see_also(&mut self, command: &Command) {
        let mut pages: Vec<String> =
            ["binfmt.d(5)", "systemd-binfmt.service(8)", "update-binfmts(8)"].map(str::to_owned).into();
        pages.insert(
            0,
            if command.has_subcommands() { "qus-register(1)".to_owned() } else { "qus(1)".to_owned() },
        );
        if command.get_name() == "run" {
            pages.extend(["env(1)".to_owned(), "user_namespaces(7)".to_owned()]);
        }
        let pages: Vec<String> = pages.iter().map(|page| format!("\\fB{}\\fR", escape(page))).collect();
        self.line(&pages.join(", "));
    }
}

/// Formats the names of an option, and the placeholder for its value.
fn option(arg: &Arg) -> String {
    let short = arg.get_short().map(|short| format!("\\fB\\-{short}\\fR"));
    let long = arg.get_long().map(|long| format!("\\fB\\-\\-{}\\fR", escape(long)));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    let takes_value = arg.get_action().takes_values();
    let value = if takes_value { format!(" {}", value(arg)) } else { String::new() };
    names.join(", ") + &value
}

/// Formats the placeholder for the value of an argument, such as `DIR`.
fn value(arg: &Arg) -> String {
    let names: Vec<String> =
        arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let name = if names.is_empty() { arg.get_id().as_str().to_uppercase() } else { names.join(" ") };
    format!("\\fI{}\\fR", escape(&name))
}

/// Returns the description of an argument: its help text, its possible values, and its default.
fn help_of(arg: &Arg) -> String {
    let help = plain(arg.get_help());
    let mut text = match arg.get_long_help() {
        // The details repeat the short help in whole sentences.
        Some(long) => {
            long.to_string().split_once("\n\n").map_or(help.clone() + ".", |(_, details)| details.to_owned())
        }
        None => help + ".",
    };
    let values: Vec<String> = if arg.get_action().takes_values() {
        arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect()
    } else {
        Vec::new()
    };
    if !values.is_empty() {
        let _infallible = write!(text, "\nPossible values: {}.", values.join(", "));
    }
    if let ([default], true) = (arg.get_default_values(), arg.get_action().takes_values()) {
        let _infallible = write!(text, "\nThe default is {}.", default.display());
    }
    text
}

fn plain(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

fn lower_first(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_lowercase().chain(characters).collect()).unwrap_or_default()
}

/// Escapes text for roff, where `\` and `-` have special meanings (`groff_char(7)`).
fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq")
}
