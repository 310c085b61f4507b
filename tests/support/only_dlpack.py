"""An array of a library that gpu4d does not know."""


class OnlyDLPack:
    """An array of a library that gpu4d does not know, with DLPack and nothing else."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()
