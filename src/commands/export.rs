//! `qus export`: writes rules in the formats of other software, which registers them at boot or in a container. The
//! command itself registers and executes nothing.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::arch::{ARCHES, Arch};
use crate::base::error::{Advice, Diagnostic};
use crate::base::escape::display_path;
use crate::base::output::Output;
use crate::base::terminal::TextWriter;
use crate::binfmt::Flags;
use crate::boot::formats::{self, ArchRules, Format, RuleView};
use crate::commands::args::{
    ArchArg, INTERPRETERS, OUTPUT, SELECTION, Words, named, parse_arches, parse_kernel, parse_one_arch,
};
use crate::commands::report::Report;
use crate::commands::suggestion;
use crate::handler::classify;
use crate::interpreter::self_exe_header;
use crate::interpreter::store;
use crate::interpreter::{default_search_dirs, describe_dirs, search};
use crate::system::kernel_version::KernelVersion;
use crate::system::managed_file;
use clap::Args;

/// Arguments of `qus export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Architectures, or `all` [default: all]
    ///
    /// Architectures by any name. `all` selects every architecture that has an interpreter. With --interpreter-path it
    /// selects every architecture. The target machine's own family, such as x86_64 and i386, is left out.
    #[arg(value_name = "ARCH", value_parser = parse_arches)]
    pub arches: Vec<Words<ArchArg>>,
    /// Output format
    #[arg(help_heading = OUTPUT, short,
        long,
        value_enum,
        required_unless_present = "json",
        default_value_if("json", "true", "json")
    )]
    pub format: Option<Format>,
    /// Interpreter path on the target machine
    ///
    /// Path of the interpreters on the target machine. The files need not exist here. {arch} is replaced by the
    /// architecture: /usr/bin/qemu-{arch}-static
    #[arg(help_heading = INTERPRETERS, long, value_name = "PATH", conflicts_with = "interpreter_dir")]
    pub interpreter_path: Option<PathBuf>,
    /// Search only in DIR (repeatable)
    ///
    /// Searches for interpreters only in DIR. Given several times, it searches each DIR.
    #[arg(help_heading = INTERPRETERS, long, value_name = "DIR")]
    pub interpreter_dir: Vec<PathBuf>,
    /// Architecture of the target machine
    ///
    /// Architecture of the target machine, which will use the rules. The default is the architecture of this machine.
    #[arg(help_heading = SELECTION, long = "for", value_name = "ARCH", value_parser = parse_one_arch, requires = "interpreter_path")]
    pub machine: Option<&'static Arch>,
    /// Kernel version of the target machine
    ///
    /// Version of Linux that the target machine runs. Rules for a kernel before 5.12 do not have flag P. The default is
    /// the version of the running kernel.
    #[arg(help_heading = SELECTION, long, value_name = "VERSION", value_parser = parse_kernel)]
    pub for_kernel: Option<KernelVersion>,
    /// Give setuid programs their owner's rights (flag C)
    ///
    /// Gives setuid programs the rights of their owners. For a setuid program of root the emulator runs as root.
    #[arg(help_heading = SELECTION, long)]
    pub credentials: bool,
    /// Write files into this directory
    ///
    /// Writes the files into this directory, which is created if it is missing. Files of other tools are not
    /// overwritten.
    #[arg(help_heading = OUTPUT, short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

/// Results of `qus export`: rules, and the files that contain them in the format of other software.
#[derive(Serialize)]
pub(crate) struct ExportReport {
    format: Format,
    rules: Vec<RuleView>,
    /// Files in the selected format. Empty for the format `json`, in which the rules themselves are the output.
    files: Vec<ExportedFile>,
    /// The whole text for standard output. `None` if the output is written to files.
    #[serde(skip)]
    document: Option<Vec<u8>>,
}

#[derive(Serialize)]
struct ExportedFile {
    name: String,
    text: String,
    /// Path of the written file. `None` if the text goes to standard output.
    path: Option<PathBuf>,
}

/// Generates the files in the selected format. Writes them into the directory of `--output`, if the option is given.
pub(super) fn execute(args: &Export) -> Result<ExportReport> {
    let format = args.format.unwrap_or(Format::Json);
    let arch_rules = arch_rules(args)?;
    let files = formats::files(format, &arch_rules).map_err(Diagnostic::from)?;
    let directory = args.output.as_deref().filter(|output| *output != Path::new("-"));
    let exported = |file: &formats::File| ExportedFile {
        name: file.name.clone(),
        text: String::from_utf8_lossy(&file.text).into(),
        path: directory.map(|directory| directory.join(&file.name)),
    };
    let rules = formats::views(&arch_rules);
    let mut report =
        ExportReport { format, rules, files: files.iter().map(exported).collect(), document: None };
    let json = if format == Format::Json { Some(Output::json(&report)?) } else { None };
    let Some(directory) = directory else {
        report.document = Some(json.unwrap_or_else(|| formats::concat(format, &files)));
        return Ok(report);
    };
    let mut written = files;
    if let Some(text) = json {
        let name = format!("{}.json", formats::SERVICE);
        let path = Some(directory.join(&name));
        report.files.push(ExportedFile { name: name.clone(), text: String::new(), path });
        written.push(formats::File { name, text, executable: false });
    }
    write(directory, &written)?;
    Ok(report)
}

/// Writes `files` into `directory`. Writes none of them if another tool has written a file with one of their names.
fn write(directory: &Path, files: &[formats::File]) -> Result<(), Diagnostic> {
    for file in files {
        managed_file::check_content(&directory.join(&file.name), &file.text)?;
    }
    for file in files {
        managed_file::write(&directory.join(&file.name), &file.text, file.executable)?;
    }
    Ok(())
}

impl Report for ExportReport {
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        if let Some(document) = &self.document {
            return text.write_all(document);
        }
        let mut paths = self.files.iter().filter_map(|file| file.path.as_deref());
        paths.try_for_each(|path| writeln!(text, "{}", display_path(path)))
    }

    fn is_document(&self) -> bool {
        self.document.is_some()
    }
}

/// Returns the rules of each architecture that `args` selects.
fn arch_rules(args: &Export) -> Result<Vec<ArchRules>, Diagnostic> {
    let host = self_exe_header()?;
    let machine = args.machine.or_else(|| Arch::from_header(&host));
    let interpreters = interpreters(args, &host, machine)?;
    let mut flags = classify::default_flags(args.for_kernel.unwrap_or_else(KernelVersion::running));
    if args.credentials {
        flags |= Flags::CREDENTIALS;
    }
    let mut arch_rules = Vec::new();
    for (arch, path) in interpreters {
        if machine == Some(arch) {
            return Err(Diagnostic::new(format!(
                "cannot export {0}: the target machine runs {0} natively, and all its programs would go through the emulator",
                arch.name
            ))
            .with_hint(format!(
                "qus export --for ARCH --interpreter-path … {} (for a machine of ARCH)",
                arch.name
            )));
        }
        let rules = classify::rules(arch, &path, flags).map_err(|error| {
            Diagnostic::from(error).with_hint("put the interpreter into a directory with a shorter path")
        })?;
        arch_rules.push(ArchRules { subject: arch.into(), rules, copied: false });
    }
    Ok(arch_rules)
}

/// Returns the path of an interpreter for each selected architecture, in the order of `ARCHES`.
fn interpreters(
    args: &Export,
    host: &[u8],
    machine: Option<&'static Arch>,
) -> Result<Vec<(&'static Arch, PathBuf)>, Diagnostic> {
    let named = named(&args.arches);
    let family = machine.map(Arch::same_family).unwrap_or_default();
    // Only an execution on the target machine shows whether it runs other architectures of its family, so these must be
    // named.
    let is_wanted = |arch: &'static Arch| match &named {
        Some(named) => named.contains(&arch),
        None => machine != Some(arch) && !family.contains(&arch.name),
    };
    let requested = || ARCHES.iter().filter(|arch| is_wanted(arch));
    if let Some(template) = &args.interpreter_path {
        return requested().map(|arch| Ok((arch, filled(template, arch, named.as_deref())?))).collect();
    }
    let search_dirs = if args.interpreter_dir.is_empty() {
        default_search_dirs(&store::all_fetched())
    } else {
        args.interpreter_dir.clone()
    };
    let mut found = search(&search_dirs, host, |arch, _| is_wanted(arch));
    let mut interpreters = Vec::new();
    let mut missing = Vec::new();
    for arch in requested() {
        match found.remove(arch.name).and_then(|found| found.interpreter) {
            Some(interpreter) => interpreters.push((arch, interpreter.path)),
            None => missing.push(arch.name),
        }
    }
    if interpreters.is_empty() || named.is_some() && !missing.is_empty() {
        let what = if named.is_some() { missing.join(" ") } else { "any architecture".to_owned() };
        let search_dirs = describe_dirs(&search_dirs, !args.interpreter_dir.is_empty());
        let (requested, fetched) =
            if named.is_some() { (what.as_str(), missing.as_slice()) } else { ("all", [].as_slice()) };
        let advice = Advice {
            command: suggestion::fetch(fetched, &args.interpreter_dir, None),
            hint: Some(format!(
                "for a path that need not exist here: qus export --interpreter-path '/usr/bin/qemu-{{arch}}-static' {requested}"
            )),
        };
        return Err(
            Diagnostic::new(format!("no interpreter for {what} is in {search_dirs}")).with_advice(advice)
        );
    }
    Ok(interpreters)
}

/// Returns the path `template` in which the name of `arch` replaces the placeholder `{arch}`.
fn filled(
    template: &Path,
    arch: &'static Arch,
    named: Option<&[&'static Arch]>,
) -> Result<PathBuf, Diagnostic> {
    /// Placeholder in `template` for the name of the architecture.
    const BLANK: &str = "{arch}";
    let example = "qus export --interpreter-path '/usr/bin/qemu-{arch}-static' …";
    let Some(text) = template.to_str().filter(|text| text.starts_with('/')) else {
        let problem = Diagnostic::new(format!("{} is not an absolute path in UTF-8", display_path(template)));
        return Err(problem.with_hint(example));
    };
    if !text.contains(BLANK) && named.is_none_or(|named| named.len() != 1) {
        let problem = Diagnostic::new(format!("{text} would be the interpreter of several architectures"));
        return Err(problem.with_hint(example));
    }
    Ok(text.replace(BLANK, arch.name).into())
}
