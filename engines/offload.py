"""Parts of a model that take turns on a device which has no room for all of them at once."""

from functools import partial


class Offload:
    """Lets each of the `parts`, nets, be on a `device` while it works, and at home before and after it, one at a time.

    A part comes when it, or a child of it, is run, and goes when another one comes, or by `rest`; a `with` of this ends
    with that. Its weights stay at home as well: to go copies nothing, and what comes back are the same to the last bit.
    What takes the place of weights while they are at home goes and comes with them.
    """

    def __init__(self, parts, device):
        self.device = device
        self._working, self._home = None, []
        for part in parts:
            for module in (part, *part.children()):
                module.register_forward_pre_hook(partial(self._come, part))

    def _come(self, part, module, given):
        if part is self._working:
            return
        self.rest()
        for tensor in (*part.parameters(), *part.buffers()):
            self._home.append((tensor, tensor.data))
            tensor.data = self.there(tensor.data)
        self._working = part  # all of it: where memory ran out on the way, it comes anew

    def there(self, tensor):
        """A tensor as it is on the device."""
        return tensor.to(self.device)

    def rest(self):
        """Let all parts be at home."""
        for tensor, kept in self._home:
            tensor.data = kept
        self._working, self._home = None, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.rest()
