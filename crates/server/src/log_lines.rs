//! What a line of the log looks like: as JSON for machines, as text for people. Either carries the id of the request that the
//! task answers, so that nothing has to open a span for it.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use jiff::Timestamp;
use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::telemetry;

/// One JSON object a line: `timestamp`, `level`, the event's fields, `target`, and `request` inside of one.
pub(crate) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut object = Object { text: Vec::with_capacity(512), text_of_value: String::new() };
        object.member("timestamp", &Timestamp::try_from(SystemTime::now()).unwrap_or_default().to_string());
        object.member("level", event.metadata().level().as_str());
        event.record(&mut object);
        object.member("target", event.metadata().target());
        telemetry::with_request_id(|id| object.member("request", id));
        object.text.extend_from_slice(b"}\n");
        writer.write_str(std::str::from_utf8(&object.text).map_err(|_| fmt::Error)?)
    }
}

/// A JSON object on its way into a line.
struct Object {
    text: Vec<u8>,
    /// Reused for values that have no form of their own in JSON.
    text_of_value: String,
}

impl Object {
    fn member<V: Serialize + ?Sized>(&mut self, name: &str, value: &V) {
        let before = self.text.len();
        self.text.push(if before == 0 { b'{' } else { b',' });
        // Names of fields are identifiers: nothing in them is escaped.
        self.text.push(b'"');
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(b"\":");
        if serde_json::to_writer(&mut self.text, value).is_err() {
            self.text.truncate(before);
        }
    }
}

impl Visit for Object {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.member(field.name(), &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field.name(), &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field.name(), &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field.name(), &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = std::mem::take(&mut self.text_of_value);
        text.clear();
        let _ = write!(text, "{value:?}");
        self.member(field.name(), text.as_str());
        self.text_of_value = text;
    }
}

/// The usual lines, with the id of the request before the rest.
pub(crate) struct TextLines(pub(crate) Format<Full>);

impl<S, N> FormatEvent<S, N> for TextLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        telemetry::with_request_id(|id| write!(writer, "{id} ")).unwrap_or(Ok(()))?;
        self.0.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::*;

    /// What was written.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("lock").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line_of(log: impl FnOnce()) -> Value {
        let written = Written::default();
        let into = written.clone();
        let subscriber = tracing_subscriber::fmt().event_format(JsonLines).with_writer(move || into.clone()).finish();
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(written.0.lock().expect("lock").clone()).expect("text");
        assert_eq!(text.matches('\n').count(), 1, "one line: {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    #[test]
    fn a_line_is_one_json_object_whatever_stands_in_it() {
        let line = line_of(|| {
            let (quoted, shown) = ("a \"b\"\n\u{1}é", std::net::Ipv4Addr::LOCALHOST);
            tracing::warn!(quoted, %shown, debug = ?Some(1), count = 7_u16, below = -1, share = 0.5, yes = true, "what \"happened\"");
        });
        let mut expected = json!({
            "level": "WARN", "message": "what \"happened\"", "quoted": "a \"b\"\n\u{1}é", "shown": "127.0.0.1", "debug": "Some(1)",
            "count": 7, "below": -1, "share": 0.5, "yes": true, "target": "imagewell::log_lines::tests",
        });
        expected["timestamp"] = line["timestamp"].clone();
        assert_eq!(line, expected);
        assert!(line["timestamp"].as_str().expect("text").parse::<Timestamp>().is_ok());
    }
}
