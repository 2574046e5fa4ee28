//! The page is whole in itself, escapes what it shows, and shows each kind of result.

use serde_json::json;

use super::*;

fn round(mta: &str, rate: f64) -> Value {
    let points: Vec<Value> = (0..30)
        .map(|index| json!({"second": f64::from(index) * 0.2, "per_second": rate, "p50": 1.5, "p99": 20.0}))
        .collect();
    let cpu: Vec<Value> = (0..30)
        .map(|index| {
            json!({"second": f64::from(index) * 0.2, "server_user": 50.0, "server_system": 30.0, "sink": 20.0,
                   "generator": 10.0, "rss_megabytes": 90.0})
        })
        .collect();
    json!({
        "mta": mta, "delivered_per_second": rate, "accepted_over_time": points.clone(),
        "delivered_over_time": points, "cpu_over_time": cpu,
        "cpu_split_us_per_message": {"server_user": 40.0, "server_system": 30.0, "sink": 10.0, "generator": 8.0},
    })
}

fn comparison() -> Source {
    let figures = |cpu: f64| json!({"cpu_us_per_message": cpu, "delivered_per_second": 1e6 / cpu, "lost": 0});
    let result = json!({
        "asked": {"scenario": "canonical", "command": ["perf", "compare", "<b>&\"x\""]},
        "machine": {"cores": 2, "kernel": "6.1 <script>alert(1)</script>"},
        "ours": figures(70.0), "opponent": figures(2_000.0),
        "rounds": [round("mailrace 1", 14_000.0), round("Postfix 3", 500.0)],
    });
    Source { name: String::new(), result }
}

/// What would make a browser look elsewhere.
const REFERENCES: [&str; 8] = ["http:", "https:", "src=", "href=", "@import", "url(", "<link", "<script"];

#[test]
fn the_page_names_nothing_outside_itself() {
    let page = page(&[comparison()]);
    for reference in REFERENCES {
        assert!(!page.contains(reference), "{reference}");
    }
}

#[test]
fn what_a_result_says_is_text_and_never_markup() {
    let page = page(&[comparison()]);
    assert!(page.contains("&lt;b&gt;&amp;&quot;x&quot;") && page.contains("6.1 &lt;script&gt;"));
    assert!(!page.contains("<b>&"));
}

#[test]
fn both_sides_of_a_comparison_are_drawn() {
    let page = page(&[comparison()]);
    for said in ["mailrace 1", "Postfix 3 (opponent)", "Side by side", "× 28.6", "CPU time per message"] {
        assert!(page.contains(said), "{said}");
    }
    assert_eq!(page.matches("<svg").count(), 8, "four plots for each side");
}

#[test]
fn two_results_stand_side_by_side() {
    let run = |name: &str, cpu: f64| Source {
        name: name.to_owned(),
        result: json!({
            "asked": {"scenario": "canonical"}, "machine": {}, "cpu_us_per_message": cpu, "lost": 0,
            "delivered_per_second": 1.0, "rounds": [round("mailrace 1", 1.0)],
        }),
    };
    let sources = [run("before", 80.0), run("after", 60.0)];
    let page = page(&sources);
    for said in ["before: mailrace 1", "after: mailrace 1", "× 0.75", "Circumstances of before"] {
        assert!(page.contains(said), "{said}");
    }
}

#[test]
fn a_result_without_rounds_is_drawn_from_itself() {
    let mut result = round("mailrace 1", 100.0);
    result["asked"] = json!({"scenario": "backlog"});
    result["cost_of_accepting"] = json!([{"from_depth": 0, "to_depth": 1_000, "cpu_us_per_message": 40.5}]);
    let page = page(&[Source { name: String::new(), result }]);
    assert_eq!(page.matches("<svg").count(), 4);
    assert!(page.contains("cost of accepting") && page.contains("<td>40.5</td>"));
}

#[test]
fn numbers_are_short() {
    for (value, text) in [(0.0, "0"), (0.005, "0.0050"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (7.0, "7")] {
        assert_eq!(number(value), text);
    }
    assert_eq!(number(1_234_567.0), "1\u{202f}234\u{202f}567");
}
