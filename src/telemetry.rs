//! Logs and metrics of the process.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt};

use crate::about::{self, About};

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts writing logs to stderr. `filter` is in the syntax of `RUST_LOG`, such as `info,tenancy=debug`.
pub fn log(filter: &str, format: LogFormat) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // What filters by spans takes locks for every span there is, once as it is made, entered, left and closed.
    let filter: Box<dyn Layer<Registry> + Send + Sync> = match filter.parse::<Targets>() {
        Ok(targets) if !filter.contains('[') => Box::new(targets),
        _ => Box::new(EnvFilter::try_new(filter)?),
    };
    let layer = fmt::layer().with_writer(std::io::stderr);
    let registry = Registry::default().with(filter);
    match format {
        LogFormat::Text => {
            let text = fmt::format().with_ansi(std::io::stderr().is_terminal());
            registry.with(layer.event_format(Request { line: text, add: in_text })).try_init()?;
        }
        LogFormat::Json => {
            let json = fmt::format().json().flatten_event(true);
            registry.with(layer.json().event_format(Request { line: json, add: in_json })).try_init()?;
        }
    }
    Ok(())
}

/// Lines of the log that say which request they are about.
struct Request<F> {
    /// Writes the line.
    line: F,
    /// Adds the request to it.
    add: fn(&mut String, &About) -> std::fmt::Result,
}

impl<S, N, F> FormatEvent<S, N> for Request<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let Some(about) = about::current() else { return self.line.format_event(context, writer, event) };
        let mut line = String::new();
        self.line.format_event(context, Writer::new(&mut line), event)?;
        line.truncate(line.trim_end().len());
        (self.add)(&mut line, &about)?;
        writeln!(writer, "{line}")
    }
}

fn in_text(line: &mut String, about: &About) -> std::fmt::Result {
    write!(line, " method={} request_id={}", about.method, about.request_id)?;
    about.organization_id.get().map_or(Ok(()), |id| write!(line, " organization_id={id}"))
}

/// Before the brace that ends the object.
fn in_json(line: &mut String, about: &About) -> std::fmt::Result {
    let end = line.pop();
    // The id may have been made by the caller, of any visible characters.
    let id = serde_json::Value::from(&*about.request_id);
    write!(line, r#","method":"{}","request_id":{id}"#, about.method)?;
    if let Some(id) = about.organization_id.get() {
        write!(line, r#","organization_id":"{id}""#)?;
    }
    line.extend(end);
    Ok(())
}

/// Starts to collect metrics; the handle renders them for Prometheus. Once a process.
pub fn metrics() -> Result<PrometheusHandle, BuildError> {
    // From 100 µs, a warm decision, to 10 s, the longest request.
    let seconds = [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &seconds)?;
    builder.install_recorder()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::*;

    /// What is written by here.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_what_is_logged_for_a_request_says_for_which() {
        let written = Written::default();
        let to = written.clone();
        let line = fmt::format().with_ansi(false).without_time();
        let layer = fmt::layer().with_writer(move || to.clone()).event_format(Request { line, add: in_text });
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            tracing::info!("by itself");
            About::new("/a.B/C", Arc::from("order-17")).within(|| tracing::info!(code = 7, "for a request"));
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let [alone, asked] = lines[..] else { panic!("{text}") };
        assert!(alone.ends_with("by itself"), "{alone}");
        assert!(asked.ends_with("for a request code=7 method=/a.B/C request_id=order-17"), "{asked}");
    }

    #[test]
    fn a_line_says_which_request_it_is_about() {
        let about = About::new("/tenancy.v1.MemberService/AddMember", Arc::from(r#"a"\b"#));
        let mut text = "a line".to_owned();
        in_text(&mut text, &about).unwrap();
        assert_eq!(text, r#"a line method=/tenancy.v1.MemberService/AddMember request_id=a"\b"#);
        about.organization_id.set(uuid::Uuid::from_u128(1)).unwrap();
        let mut line = json!({"message": "a line"}).to_string();
        in_json(&mut line, &about).unwrap();
        let expected = json!({
            "message": "a line",
            "method": "/tenancy.v1.MemberService/AddMember",
            "request_id": r#"a"\b"#,
            "organization_id": "00000000-0000-0000-0000-000000000001",
        });
        assert_eq!(line.parse::<Value>().unwrap(), expected);
    }
}
