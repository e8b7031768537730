# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Eight months of one person's evenings
#
# stub $x^2$ 中文

# %% tags=["active-ipynb"]
# from figures.style import figure, show
# fig, ax = figure(2.4)
# ax.plot([1, 2, 3])
# show(fig, alt="a line", caption="钢 caption")

# %% tags=["hide-cell"]
print(1)

# %%
if __name__ == "__main__":
    print("run")
