use std::io::IsTerminal as _;
use std::process::ExitCode;

use serde_json::json;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Grade {
    Ok,
    /// It works, and something is not as it should be.
    Warning,
    /// Something doesn't work, is lost, or is open to others.
    Fault,
}

impl Grade {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }

    /// In front of a line.
    fn mark(self) -> &'static str {
        match self {
            Self::Ok => "ok     ",
            Self::Warning => "warn   ",
            Self::Fault => "FAULT  ",
        }
    }
}

/// Prints findings as they come, or all of them as JSON at the end.
pub(super) struct Report {
    json: bool,
    worst: Grade,
    findings: Vec<serde_json::Value>,
    count: usize,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self { json, worst: Grade::Ok, findings: Vec::new(), count: 0 }
    }

    pub(super) fn ok(&mut self, area: &'static str, text: impl Into<String>) {
        self.add(area, Grade::Ok, &text.into(), None);
    }

    pub(super) fn warn(&mut self, area: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(area, Grade::Warning, &text.into(), Some(&remedy.into()));
    }

    pub(super) fn fault(&mut self, area: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(area, Grade::Fault, &text.into(), Some(&remedy.into()));
    }

    /// With a grade that depends.
    pub(super) fn graded(&mut self, grade: Grade, area: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(area, grade, &text.into(), Some(&remedy.into()));
    }

    fn add(&mut self, area: &'static str, grade: Grade, text: &str, remedy: Option<&str>) {
        self.worst = self.worst.max(grade);
        self.count += 1;
        if self.json {
            self.findings.push(json!({ "area": area, "grade": grade.as_str(), "finding": text, "remedy": remedy }));
            return;
        }
        println!("{}{area}: {text}", grade.mark());
        if let Some(remedy) = remedy {
            println!("       → {remedy}");
        }
    }

    /// Findings so far.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// How far something long has come: for people alone.
    pub(super) fn progress(text: &str) {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K{text}");
        }
    }

    /// Prints what is still to be printed. The exit code is 1 where anything is at fault.
    pub(super) fn end(self) -> ExitCode {
        if self.json {
            let report = json!({ "version": env!("CARGO_PKG_VERSION"), "grade": self.worst.as_str(), "findings": self.findings });
            println!("{report:#}");
        }
        if self.worst == Grade::Fault { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}
