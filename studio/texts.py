"""What the page says, in English and Chinese: one table, from which labels, help and handlers take their words."""

import gradio as gr

from engines import requests

# key: (English, Chinese). Help and choices of request fields come from their own table in English.
TABLE = {
    "tagline": ("a local art studio", "本地艺术工作室"),
    "generate": ("Generate", "生成"),
    "reconstruct": ("Reconstruct", "重建"),
    "stop": ("Stop", "停止"),
    "settings": ("Settings", "设置"),
    "guidance_more": ("Guidance in detail", "引导细节"),
    "variation": ("Variation", "变体"),
    "tokens_more": ("Tokens in detail", "词元细节"),
    "from_picture": ("From a picture", "以图生图"),
    "read_settings": ("Read the settings of a PNG", "读取 PNG 中的设置"),
    "read_settings.help": (
        "Every picture drawn here holds the settings that draw it again.",
        "这里生成的每张图片都带有能重新画出它的设置。",
    ),
    "noise_only": ("From noise alone", "仅从噪声"),
    "noise_only.help": ("draws without words or guidance", "不用文字，也不用引导"),
    "prompt.placeholder": (
        "a red fox, on a blue background · 红苹果，卡通",
        "红苹果，卡通 · a red fox, on a blue background",
    ),
    "random_seed": ("New seed each time", "每次使用新种子"),
    "random_seed.help": ("switch off to draw the same picture again", "关闭后可重复同一张图"),
    "download": ("Download PNG", "下载 PNG"),
    "use_seed": ("Use its seed", "使用此种子"),
    "use_settings": ("Use its settings", "使用此设置"),
    "caption": ("seed {seed}", "种子 {seed}"),
    "steps_taken": ("{steps} steps", "{steps} 步"),
    "without_words": ("from noise alone", "仅从噪声"),
    "to_reconstruct": ("Send to Reconstruct", "发送到重建"),
    "to_image": ("Start from it", "以此图为起点"),
    "picture": ("Picture", "图片"),
    "side_by_side": ("Picture | reconstruction", "原图 | 重建"),
    "difference": ("Difference, four times amplified", "差异（放大四倍）"),
    "token_map": ("Tokens: a colour a code", "词元：每个编码一种颜色"),
    "save_tokens": ("Save as tokens", "存为词元"),
    "open_tokens": ("Open tokens", "打开词元"),
    "tokens.help": (
        "A picture as its tokens alone is a small file; this studio draws it again with the same model.",
        "只存词元的图片文件很小；用同一个模型可以在这里重新画出。",
    ),
    "empty": ("Write what you want to see and press Generate.", "写下想看到的画面，然后点“生成”。"),
    "empty_reconstruct": (
        "Choose a PNG, JPEG or WebP: it is read as tokens from a codebook and drawn again from them.",
        "选择一张 PNG、JPEG 或 WebP 图片：它会被读成码本中的词元，再由词元重新画出。",
    ),
    "empty_stage": (
        "The picture and what the model makes of it appear here, with the tokens between them.",
        "图片和模型重画的结果会并排显示在这里，还有它们之间的词元。",
    ),
    "workshop": ("Workshop", "工坊"),
    "workshop.help": (
        "Change the picture token by token: paint with a code, exchange regions with another picture, or mix two. "
        "While a picture is drawn elsewhere, edits wait for it.",
        "逐个词元地修改图片：用编码绘画，与另一张图片交换区域，或把两张图片混合。别处正在生成时，编辑会等待。",
    ),
    "workshop.begin": ("Take up the picture above", "开始编辑上面的图片"),
    "workshop.nothing": (
        "There are no tokens to work on yet: reconstruct a picture with a VQGAN first.",
        "还没有可以编辑的词元：请先用 VQGAN 重建一张图片。",
    ),
    "workshop.expired": (
        "This picture is no longer held in memory: reconstruct it again, or open its saved tokens.",
        "这张图片已不在内存中：请重新重建，或打开保存的词元。",
    ),
    "workshop.gone": (
        "This page was away for too long, and its edit is gone: take the picture up again, or open its saved tokens.",
        "页面离开太久，编辑已丢失：请重新开始编辑，或打开保存的词元。",
    ),
    "workshop.no_code": (
        "There is no such code; take a whole number from 0 to {last}.",
        "没有这个编码；请填 0 到 {last} 的整数。",
    ),
    "workshop.no_second": (
        "There is no second picture yet: take one up, press “Keep as the second picture”, then take up the other.",
        "还没有第二张图片：先开始编辑一张，点“留作第二张图片”，再开始编辑另一张。",
    ),
    "workshop.remembered": (
        "Kept as the second picture. Take up another to swap or mix with it.",
        "已留作第二张图片。再开始编辑另一张，就能与它交换或混合。",
    ),
    "tool": ("Tool", "工具"),
    "tool.help": ("what a stroke on the picture does", "在图片上划过时做什么"),
    "tool.brush": ("Brush", "画笔"),
    "tool.fill": ("Fill", "填充"),
    "tool.pick": ("Pick", "取码"),
    "tool.swap": ("Swap", "交换"),
    "tool.mark": ("Mark", "标记"),
    "redraw": ("Draw the marked tokens anew", "重画标记的词元"),
    "redraw.help": (
        "what shall be there, in English or Chinese; mark the places with the tool Mark, and leave this empty to let "
        "the picture around them decide",
        "那里应该是什么，中文或英文；先用“标记”工具标出位置；留空则由周围的画面决定",
    ),
    "redraw.run": ("Draw anew", "重画"),
    "mark_all": ("Mark all", "全部标记"),
    "unmark": ("Unmark", "清除标记"),
    "workshop.no_marks": (
        "Nothing is marked yet: choose the tool Mark and draw over what shall change.",
        "还没有标记：请选“标记”工具，划过要改变的地方。",
    ),
    "workshop.redrawing": (
        "Tokens are being drawn anew already: wait until that is done, or stop it.",
        "正在重画词元：请等它完成，或停止它。",
    ),
    "workshop.left": (
        "The tokens were drawn anew, but their picture is no longer on the bench; take it up and try again.",
        "词元已重画，但它们所属的图片已不在工作台上；请重新开始编辑那张图片再试。",
    ),
    "workshop.no_generator": (
        "No model here draws with the codes of this VQGAN; `python app.py train tokens` makes one.",
        "这里没有用这个 VQGAN 的编码绘画的模型；`python app.py train tokens` 可以训练一个。",
    ),
    "token_code": ("Code", "编码"),
    "token_code.help": (
        "what is painted; choose it in the codebook, with Pick, or type it and press Enter",
        "用来绘画的编码；在码本中选，用“取码”，或输入后按回车",
    ),
    "codes": ("Codebook", "码本"),
    "codes.help": ("in which order all codes are shown", "全部编码按什么顺序显示"),
    "codes.number": ("by number", "按编号"),
    "codes.use": ("by use here", "按本图用量"),
    "codes.colour": ("by colour", "按颜色"),
    "coloured": ("Codes as colours", "以颜色显示编码"),
    "coloured.help": ("instead of the picture", "代替图片"),
    "undo": ("Undo", "撤销"),
    "redo": ("Redo", "重做"),
    "second": ("Keep as the second picture", "留作第二张图片"),
    "keep": ("Keep in the gallery", "存入图库"),
    "share": ("Share", "比例"),
    "share.help": ("how many of the tokens come from the second picture", "有多少词元来自第二张图片"),
    "mix": ("Mix", "混合"),
    "waiting": ("Waiting; {ahead} before this one", "等待中；前面还有 {ahead} 个"),
    "held": ("On hold; let it go in the queue", "已暂停；可在队列中继续"),
    "resumed": ("goes on after the studio was stopped", "工作室重启后继续"),
    "finish": ("Finish this one", "画完这张"),
    "skip": ("Skip this one", "跳过这张"),
    "gallery": ("Gallery", "图库"),
    "gallery.words": ("Search", "搜索"),
    "gallery.words.help": ("words of the prompt, whole or begun; press Enter", "提示词中的词，可只写开头；按回车"),
    "gallery.any": ("any", "不限"),
    "gallery.task": ("Made by", "来自"),
    "board": ("Board", "画板"),
    "gallery.days": ("Made within", "时间"),
    "gallery.today": ("a day", "一天内"),
    "gallery.week": ("a week", "一周内"),
    "gallery.month": ("a month", "一月内"),
    "gallery.starred": ("With a star", "仅收藏"),
    "gallery.newer": ("Newer", "较新"),
    "gallery.older": ("Older", "较旧"),
    "gallery.count": ("{count} pictures, page {page} of {pages}", "共 {count} 张，第 {page} / {pages} 页"),
    "gallery.nothing": ("No picture is found. Draw one on Generate, or search for less.",
                        "没有找到图片。请在“生成”页画一张，或放宽搜索。"),
    "gallery.take_in": ("Take in PNG files", "导入 PNG 文件"),
    "gallery.take_in.help": (
        "Of Atelier, A1111 and ComfyUI: their settings come back, as far as they have a place here.",
        "来自 Atelier、A1111 或 ComfyUI：能对应的设置都会恢复。",
    ),
    "gallery.taken": ("{count} taken in.", "已导入 {count} 张。"),
    "gallery.lost": ("Without a place here: {names}.", "此处没有对应项：{names}。"),
    "gallery.too_many": ("More than {most} files at once; take in fewer.", "一次最多 {most} 个文件；请减少。"),
    "gallery.star": ("☆ Star", "☆ 收藏"),
    "gallery.unstar": ("★ Starred", "★ 已收藏"),
    "gallery.pick": ("Pick", "选取"),
    "gallery.remake": ("Remake", "重做"),
    "gallery.delete": ("Delete", "删除"),
    "gallery.put": ("Put under a board", "放入画板"),
    "gallery.put.help": ("a name; press Enter, leave it empty to take the picture off", "名称；按回车，留空则移出"),
    "gallery.picked": ("{count} picked", "已选 {count} 张"),
    "gallery.side_by_side": ("Compare two", "对比两张"),
    "gallery.pack": ("Pack as ZIP", "打包为 ZIP"),
    "gallery.packed": ("Download {count} as ZIP", "下载 {count} 张的 ZIP"),
    "gallery.download": ("Download ZIP", "下载 ZIP"),
    "gallery.unpick": ("Unpick all", "全部取消选取"),
    "gallery.undo": ("Bring back", "撤销删除"),
    "gallery.none_chosen": ("There is no such picture; choose one first.", "没有这张图片；请先选择一张。"),
    "gallery.two": ("Two pictures are compared: pick two, with Pick.", "需要对比两张图片：请用“选取”选出两张。"),
    "gallery.same": ("The same picture, pixel for pixel.", "同一张图片，逐像素相同。"),
    "gallery.changed": ("Another picture. What changed: {why}", "图片不同。变化之处：{why}"),
    "gallery.no_reason": (
        "nothing that is recorded; another processor or driver may round otherwise",
        "记录中没有；不同的处理器或驱动取整可能不同",
    ),
    "queue": ("Queue", "队列"),
    "queue.nothing": ("Nothing was asked yet.", "还没有任务。"),
    "queue.sooner": ("Sooner", "提前"),
    "queue.later": ("Later", "推后"),
    "queue.hold": ("Hold or let go", "暂停或继续"),
    "queue.remove": ("Stop", "停止"),
    "queue.again": ("Again", "再来一次"),
    "queue.none_chosen": ("Choose a job in the list first.", "请先在列表中选择一个任务。"),
    "queue.not_over": ("This job is not over yet; wait for its end, or stop it.", "任务尚未结束；请等待或停止它。"),
    "state.waiting": ("waiting", "等待中"),
    "state.held": ("on hold", "已暂停"),
    "state.running": ("running", "进行中"),
    "state.done": ("done", "完成"),
    "state.failed": ("failed", "失败"),
    "state.cancelled": ("stopped", "已停止"),
    "resample": ("Redrawn tokens", "重画词元"),
    "starting": ("The engine is getting ready…", "引擎准备中…"),
    "step": ("Step {index} of {count}", "第 {index} / {count} 步"),
    "left": ("about {seconds} s left", "约剩 {seconds} 秒"),
    "left_minutes": ("about {minutes} min left", "约剩 {minutes} 分钟"),
    "done": ("Done in {seconds:.1f} s", "完成，用时 {seconds:.1f} 秒"),
    "not_generated": (
        "This picture was not drawn on the Generate tab, so there are no settings of it here.",
        "这张图片不是在“生成”页画的，这里没有它的设置。",
    ),
    "cancelled": ("Stopped.", "已停止。"),
    "no_picture": ("Choose a picture first.", "请先选择一张图片。"),
    "nothing_chosen": ("There is no picture yet: draw one first.", "还没有图片：请先生成一张。"),
    "figure.psnr": ("PSNR", "峰值信噪比"),
    "figure.ssim": ("SSIM", "结构相似度"),
    "figure.bits": ("bits per pixel", "每像素比特"),
    "figure.tokens": ("tokens", "词元"),
    "figure.codes": ("codes used", "使用的编码"),
    "figure.perplexity": ("perplexity", "困惑度"),
    "model": ("Model", "模型"),
    "prompt": ("Prompt", "提示词"),
    "negative": ("Negative prompt", "反向提示词"),
    "style": ("Style", "风格"),
    "style.any": ("any", "不限"),
    "style.3d": ("3d", "立体"),
    "style.glossy": ("glossy", "光泽"),
    "style.flat": ("flat", "扁平"),
    "style.cartoon": ("cartoon", "卡通"),
    "width": ("Width", "宽"),
    "height": ("Height", "高"),
    "count": ("Count", "数量"),
    "steps": ("Steps", "步数"),
    "sampler": ("Sampler", "采样器"),
    "scheduler": ("Schedule", "噪声调度"),
    "cfg_scale": ("Guidance", "引导强度"),
    "cfg_rescale": ("Rescale", "引导重缩放"),
    "cfg_start": ("Guidance starts", "引导开始"),
    "cfg_end": ("Guidance ends", "引导结束"),
    "seed": ("Seed", "种子"),
    "variation_seed": ("Variation seed", "变体种子"),
    "variation_strength": ("Variation strength", "变体强度"),
    "source": ("Picture to start from", "起始图片"),
    "source.help": (
        "Leave empty to start from noise. PNG, JPEG or WebP; drop, paste or choose a file.",
        "留空则从噪声开始。PNG、JPEG 或 WebP；拖放、粘贴或选择文件。",
    ),
    "reads.help": ("which VQGAN reads and redraws the picture", "由哪个 VQGAN 读取并重画"),
    "strength": ("Strength", "强度"),
    "order": ("Order", "顺序"),
    "temperature": ("Temperature", "温度"),
    "top_k": ("Top k", "前 k 个"),
    "max_side": ("Longest side", "最长边"),
}

HELP_ZH = {
    "model": "用哪个模型",
    "prompt": "想画什么，中文或英文：“红心，扁平”",
    "negative": "想避开什么；引导强度须大于 1",
    "style": "怎样画",
    "width": "像素；模型在其训练尺寸上画得最好",
    "height": "像素",
    "count": "一次画几张，种子依次加一",
    "steps": "从无到有的步数；越多越慢也越细",
    "sampler": "扩散模型：每一步怎样走",
    "scheduler": "扩散模型：噪声怎样逐步下降",
    "cfg_scale": "多严格地遵循文字；1 为关闭，且快一倍",
    "cfg_rescale": "扩散模型：抑制强引导的过亮色彩；0 为关闭",
    "cfg_start": "扩散模型：引导从这一比例的步数开始",
    "cfg_end": "扩散模型：引导到这一比例的步数结束",
    "seed": "相同的种子画出相同的图",
    "variation_seed": "要靠近的第二个种子",
    "variation_strength": "0 停在原种子，1 到达变体种子",
    "strength": "离原图多远：低则保留，1 则忽略",
    "order": "词元模型：先定下哪些词元",
    "temperature": "词元模型：猜得多大胆；0 为毫不冒险",
    "top_k": "词元模型：只在最可能的若干编码中猜；0 为全部",
    "max_side": "更大的图片先缩到这一最长边（像素）",
}

CHOICES_ZH = {
    "sampler.dpmpp_2m": "DPM++ 2M：借前一步得二阶精度；多数图片的首选",
    "sampler.dpmpp_2m_sde": "DPM++ 2M SDE：同上，每步加新噪声；细节更丰富，步数少时较难重复",
    "sampler.euler": "Euler：沿流向走一步；平稳可预期",
    "sampler.euler_ancestral": "Euler ancestral：每步加新噪声；不收敛，变化更多",
    "sampler.heun": "Heun：每步再看一次；时间加倍，非常精确",
    "sampler.dpm_2": "DPM-Solver-2：看每步的中点；时间加倍",
    "sampler.lms": "LMS：由最近四步线性多步求得",
    "sampler.ddim": "DDIM：扩散论文中的确定性经典",
    "sampler.ddpm": "DDPM：最初的祖先采样器；需要很多步",
    "sampler.unipc": "UniPC：预测加校正；步数少也好",
    "sampler.lcm": "LCM：直达终点再加噪；用于为极少步数调校的模型",
    "scheduler.linear": "时间线性：按模型自身的时间均匀分步",
    "scheduler.karras": "Karras：接近结尾时步子小，细节在那里出现",
    "scheduler.exponential": "指数：按噪声的对数均匀分步",
    "scheduler.simple": "简单：每隔 n 个取一个训练时的噪声级",
    "scheduler.sgm_uniform": "SGM 均匀：时间均匀，最后一步留给终点",
    "order.confidence": "把握：先定下模型最有把握的词元，稍带偶然",
    "order.halton": "Halton：先定下彼此远离的位置，不看把握；变化更多",
}

CLASSES = (requests.GenerateRequest, requests.ReconstructRequest)


def _rows():
    rows = dict(TABLE)
    for name, chinese in HELP_ZH.items():
        kind = next(kind for kind in CLASSES if name in kind.__dataclass_fields__)
        rows[f"{name}.help"] = (requests.control(kind, name)["help"], chinese)
    for key, chinese in CHOICES_ZH.items():
        name, _, choice = key.partition(".")
        rows[key] = (requests.control(requests.GenerateRequest, name)["choices"][choice], chinese)
    return rows


ROWS = _rows()
I18N = gr.I18n(
    en={key: english for key, (english, _) in ROWS.items()},
    **{language: {key: chinese for key, (_, chinese) in ROWS.items()} for language in ("zh", "zh-CN")},
)


def t(key):
    """The text of a label or help line; the browser's language decides which."""
    if key not in ROWS:
        raise KeyError(key)
    return I18N(key)


def say(request, key, **values):
    """The text of `key` in the language of a gradio `request`, with its `values` filled in."""
    chinese = request is not None and request.headers.get("accept-language", "").lower().startswith("zh")
    return ROWS[key][chinese].format(**values)
