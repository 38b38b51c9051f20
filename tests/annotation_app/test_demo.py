from annotation_app.responders.demo import draw_items


def test_demo_items_are_distinct_repeatable_and_really_different() -> None:
    for domain in ("helpfulness", "safety"):
        items = draw_items(domain, 100)
        assert items == draw_items(domain, 100)
        assert len({item.name for item in items}) == 100
        for item in items:
            first, second = item.responses
            assert first.text != second.text
            assert {first.model, second.model} == {"demo-brief", "demo-chatty"}
