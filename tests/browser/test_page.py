"""The page as a whole: its languages."""

from playwright.sync_api import expect


def test_the_page_speaks_chinese_to_a_chinese_browser(visit):
    artist = visit(locale="zh-CN")
    expect(artist.find("#generate-run")).to_have_text("生成")
    expect(artist.find("#generate-stop")).to_have_text("停止")
    expect(artist.find("#generate-steps")).to_contain_text("去噪步数")
    expect(artist.find("#generate-style")).to_contain_text("扁平")
    expect(artist.page.get_by_role("tab", name="重建")).to_be_visible()
    artist.find("#generate-sampler input").click()
    expect(artist.page.get_by_role("option", name="多数图片的首选")).to_be_visible()
    artist.find("#generate-run").focus()
    artist.ask("苹果，卡通", seed=31)
    artist.draw()
    expect(artist.find("#generate-status")).to_contain_text("完成")
    expect(artist.find("#generate-gallery .caption-label")).to_have_text("种子 31")
